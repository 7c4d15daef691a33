"""Checkpoint: a committed checkpoint, opened. Any slice of any tensor, by reading the bytes of that slice alone.

The manifest says where each element is, so nothing in the files is parsed, and the number of workers that wrote them
does not matter. Nothing is ever unpickled.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.manifest import MAX_MANIFEST_BYTES, Manifest, TensorEntry
from gen_dist.checkpoint.names import Name
from gen_dist.store import MissingError, ObjectInfo, Store
from gen_dist.store.base import fill

NUM_THREADS = 8
GROUP_BYTES = 8 << 20  # of small neighbours that one request brings
GAP_BYTES = 64 << 10  # of what nobody wants, cheaper to read than another request
SPLIT_BYTES = 64 << 20  # of one large slice, for several requests at once
HASH_BYTES = 4 << 20
T = TypeVar("T")


class Slice(NamedTuple):
    """A part of a flattened tensor."""

    key: str
    start: int = 0
    numel: int | None = None
    """None: to its end."""


def open_checkpoint(store: Store, name: str) -> Checkpoint:
    """Opens a committed checkpoint of a run's store. Reads the manifest, and looks at the names and sizes of its files.

    Raises: CheckpointError where it is damaged or not there, StoreError where the store cannot be reached.
    """
    parsed = Name.parse(name)
    if parsed is None:
        raise CheckpointError(f"{store.url}/{name}: no name of a checkpoint; write such as {Name(12800, 1)}")
    try:
        infos = {info.name: info for info in store.list(f"{parsed}/*")}
    except MissingError:
        infos = {}
    where = f"{store.url}/{parsed.manifest}"
    if parsed.tombstone in infos:
        raise CheckpointError(f"{store.url}/{name}: is being removed; take a newer checkpoint")
    if parsed.manifest not in infos:
        seen = "not committed, it has no manifest" if infos else "no such checkpoint"
        raise CheckpointError(f"{store.url}/{name}: {seen}; take one that `gen-dist checkpoints` lists")
    info = infos[parsed.manifest]
    if info.size_bytes > MAX_MANIFEST_BYTES:
        raise CheckpointError(f"{where}: {info.size_bytes} bytes are too many for a manifest; take an older checkpoint")
    data = _present(where, lambda: store.read(info.name, version=info.version))
    manifest = Manifest.from_bytes(data, name=parsed, where=where)
    files = {}
    for file, entry in manifest.files.items():
        seen_info = infos.get(parsed.file(file))
        if seen_info is None or seen_info.size_bytes != entry.size_bytes:
            seen = f"{seen_info.size_bytes} bytes" if seen_info else "missing"
            raise CheckpointError(
                f"{store.url}/{parsed.file(file)}: {seen}, the manifest says {entry.size_bytes} bytes; take an older"
                " checkpoint"
            )
        files[file] = seen_info
    return Checkpoint(store, manifest, files, hashlib.sha256(data).hexdigest())


class Checkpoint:
    """A committed checkpoint. Methods raise CheckpointError for damage and StoreError for trouble with the store."""

    def __init__(self, store: Store, manifest: Manifest, files: dict[str, ObjectInfo], sha256: str) -> None:
        self.store, self.manifest = store, manifest
        self.manifest_sha256 = sha256
        """Names this very checkpoint: the manifest holds the checksums of all else."""
        self._files = files
        self._verified: set[str] = set()

    @property
    def name(self) -> str:
        return str(self.manifest.name)

    @property
    def url(self) -> str:
        return f"{self.store.url}/{self.name}"

    def keys(self, section: str = "") -> list[str]:
        """Keys of all tensors, or those of a section such as `weight` or `average/denoiser`; in stored order."""
        head = f"{section}/" if section else ""
        return [key for key in self.manifest.tensors if key.startswith(head)]

    def entry(self, key: str) -> TensorEntry:
        """Shape, number format and whereabouts of a tensor."""
        try:
            return self.manifest.tensors[key]
        except KeyError:
            raise CheckpointError(f"{self.url}: no tensor {key!r}; the checkpoint is of another model") from None

    def shape(self, key: str) -> tuple[int, ...]:
        return self.entry(key).shape

    def dtype(self, key: str) -> torch.dtype:
        return self.entry(key).dtype

    def tensor(self, key: str) -> Tensor:
        """A whole tensor in its shape."""
        return self.read(key).reshape(self.shape(key))

    def section(self, section: str) -> dict[str, Tensor]:
        """All tensors of a section, whole, by what follows `section/` in their keys."""
        keys = self.keys(section)
        values = self.read_all([Slice(key) for key in keys])
        head = len(section) + 1
        return {key[head:]: value.reshape(self.shape(key)) for key, value in zip(keys, values, strict=True)}

    def read(self, key: str, start: int = 0, numel: int | None = None) -> Tensor:
        """Elements [start, start + numel) of the flattened tensor, on the CPU."""
        return self.read_all([Slice(key, start, numel)])[0]

    def read_all(self, slices: Sequence[Slice]) -> list[Tensor]:
        """Many slices at once: neighbours in a file come with one request, and several requests run side by side."""
        values: list[Tensor] = []
        segments: list[_Segment] = []
        for wanted in slices:
            entry = self.entry(wanted.key)
            numel = entry.numel - wanted.start if wanted.numel is None else wanted.numel
            if wanted.start < 0 or numel < 0 or wanted.start + numel > entry.numel:
                raise CheckpointError(
                    f"{self.url}: {wanted.key} has {entry.numel} elements, not {wanted.start} to"
                    f" {wanted.start + numel}; the checkpoint is of another model"
                )
            value = torch.empty(numel, dtype=entry.dtype)
            values.append(value)
            segments += _segments(entry, wanted.start, value)
        groups = _groups(segments)
        if len(groups) < 2:
            for group in groups:
                self._fetch(group)
            return values
        with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="gen-dist-checkpoint-read") as pool:
            for _ in pool.map(self._fetch, groups):
                pass
        return values

    def verify(self, part: int = 0, parts: int = 1) -> None:
        """Holds the files against their checksums; of `parts` workers that share the work, worker `part`.

        The larger files are dealt out first, so that all have about as much to do.
        """
        order = sorted(self._files, key=lambda name: (-self._files[name].size_bytes, name))
        for name in order[part::parts]:
            self._verify(name)

    def verify_holding(self, keys: Iterable[str]) -> None:
        """As `verify`, only the files that hold these tensors, and each but once: a read refuses what changed since."""
        names = {fragment.file for key in keys for fragment in self.entry(key).fragments}
        for name in sorted(names - self._verified):
            self._verify(name)

    def _verify(self, name: str) -> None:
        url = f"{self.url}/{name}"
        info, digest = self._files[name], hashlib.sha256()
        room = memoryview(bytearray(HASH_BYTES))

        def hash_all() -> None:
            with self.store.stream(info.name, version=info.version) as stream:
                while num_bytes := fill(stream, room):
                    digest.update(room[:num_bytes])

        _present(url, hash_all)
        expected = self.manifest.files[name].sha256
        if digest.hexdigest() != expected:
            raise CheckpointError(
                f"{url}: its SHA-256 is {digest.hexdigest()[:12]}..., the manifest says {expected[:12]}...; damaged or"
                " exchanged, take an older checkpoint"
            )
        self._verified.add(name)

    def _fetch(self, group: list[_Segment]) -> None:
        """Fills the room of segments that lie close together in one file."""
        info, first, end = self._files[group[0].file], group[0].offset, max(one.end for one in group)
        if len(group) == 1:
            self._read_into(info, first, group[0].room)
            return
        data = memoryview(bytearray(end - first))
        self._read_into(info, first, data)
        for one in group:
            one.room[:] = data[one.offset - first : one.end - first]

    def _read_into(self, info: ObjectInfo, offset: int, room: memoryview) -> None:
        url = f"{self.store.url}/{info.name}"
        num_bytes = _present(url, lambda: self.store.read_into(info.name, offset, room, version=info.version))
        if num_bytes != len(room):
            raise CheckpointError(f"{url}: ends {len(room) - num_bytes} bytes early; take an older checkpoint")


@dataclass(frozen=True)
class _Segment:
    """Bytes [offset, end) of a file, and where they go."""

    file: str
    offset: int
    room: memoryview

    @property
    def end(self) -> int:
        return self.offset + len(self.room)


def _segments(entry: TensorEntry, start: int, value: Tensor) -> Iterable[_Segment]:
    """Where the elements from `start` on that fill `value` are stored."""
    if not value.numel():
        return
    room = value.view(torch.uint8).numpy().data
    itemsize, end = entry.dtype.itemsize, start + value.numel()
    first = bisect.bisect_right(entry.fragments, start, key=lambda fragment: fragment.start) - 1
    for fragment in entry.fragments[first:]:
        if fragment.start >= end:
            return
        low, high = max(start, fragment.start), min(end, fragment.start + fragment.numel)
        offset = fragment.offset + (low - fragment.start) * itemsize
        part = room[(low - start) * itemsize : (high - start) * itemsize]
        for at in range(0, len(part), SPLIT_BYTES):
            yield _Segment(fragment.file, offset + at, part[at : at + SPLIT_BYTES])


def _groups(segments: Iterable[_Segment]) -> list[list[_Segment]]:
    """Segments that one request should bring, in the order of the files."""
    groups: list[list[_Segment]] = []
    end = 0
    for one in sorted(segments, key=lambda one: (one.file, one.offset)):
        last = groups[-1] if groups else None
        if (
            last is not None
            and last[0].file == one.file
            and one.offset - end <= GAP_BYTES
            and one.end - last[0].offset <= GROUP_BYTES
        ):
            last.append(one)
            end = max(end, one.end)
        else:
            groups.append([one])
            end = one.end
    return groups


def _present(url: str, read: Callable[[], T]) -> T:
    """What `read` gives; an object that is gone is damage and not trouble with the store."""
    try:
        return read()
    except MissingError as error:
        raise CheckpointError(f"{url}: gone since it was listed ({error}); take another checkpoint") from None
