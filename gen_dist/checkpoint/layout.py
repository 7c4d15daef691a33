"""How a worker's pieces lie in its files: safetensors files of flat fragments, planned before a byte is written.

A file is 8 bytes with the length of the header, the header (JSON, padded with blanks to a whole page, so that the disk
can fetch what follows from the pages of a snapshot), and the fragments one after the other. Wider number formats come
first, so that each fragment is aligned; else the order is that of the pieces, so that what a worker reads together lies
together.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gen_dist.checkpoint.manifest import FileEntry, Part, TensorEntry
from gen_dist.checkpoint.names import file_name
from gen_dist.checkpoint.piece import DTYPE_NAMES, Fragment, PieceSpec

MAX_FILE_BYTES = 2 << 30
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Slot:
    """A fragment's place in a file."""

    piece: int
    """Number of the piece it is of."""
    first: int
    """Where it begins within the piece, in elements."""
    numel: int
    offset: int
    """Where its bytes begin, counted behind the header."""


@dataclass
class FilePlan:
    """One file to be written."""

    name: str
    slots: list[Slot] = field(default_factory=list)
    data_bytes: int = 0
    header: bytes = b""
    """Length and header, as they are written."""

    @property
    def size_bytes(self) -> int:
        return len(self.header) + self.data_bytes


@dataclass(frozen=True)
class Layout:
    """All files of one worker."""

    specs: tuple[PieceSpec, ...]
    files: tuple[FilePlan, ...]

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def part(self, sha256: dict[str, str]) -> Part:
        """What the worker says of its files, once their checksums are known."""
        tensors = {spec.key: TensorEntry(spec.dtype, spec.shape, []) for spec in self.specs}
        for file in self.files:
            for slot in file.slots:
                spec = self.specs[slot.piece]
                tensors[spec.key].fragments.append(
                    Fragment(spec.start + slot.first, slot.numel, file.name, len(file.header) + slot.offset)
                )
        return Part(tensors, {file.name: FileEntry(file.size_bytes, sha256[file.name]) for file in self.files})


def plan(specs: Sequence[PieceSpec], *, rank: int, max_file_bytes: int = MAX_FILE_BYTES) -> Layout:
    """The files of one worker, each with at most `max_file_bytes` of fragments; a larger piece is divided."""
    files: list[FilePlan] = []
    order = sorted(range(len(specs)), key=lambda number: -specs[number].dtype.itemsize)
    for number in order:
        first, itemsize = 0, specs[number].dtype.itemsize
        while first < specs[number].numel:
            room = max_file_bytes - files[-1].data_bytes if files else 0
            if room < itemsize or (room < (specs[number].numel - first) * itemsize and files[-1].data_bytes):
                files.append(FilePlan(file_name(rank, len(files))))
                room = max_file_bytes
            numel = min(specs[number].numel - first, room // itemsize)
            file = files[-1]
            file.slots.append(Slot(number, first, numel, file.data_bytes))
            file.data_bytes += numel * itemsize
            first += numel
    for file in files:
        file.header = _header(specs, file)
    return Layout(tuple(specs), tuple(files))


def _header(specs: Sequence[PieceSpec], file: FilePlan) -> bytes:
    entries = dict(_entry(specs[slot.piece], slot) for slot in file.slots)
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % PAGE_BYTES)
    return len(text).to_bytes(8, "little") + text


def _entry(spec: PieceSpec, slot: Slot) -> tuple[str, dict[str, object]]:
    end = slot.offset + slot.numel * spec.dtype.itemsize
    facts: dict[str, object] = {
        "dtype": DTYPE_NAMES[spec.dtype],
        "shape": [slot.numel],
        "data_offsets": [slot.offset, end],
    }
    return f"{spec.key}@{spec.start + slot.first}", facts


def chunks(data: memoryview, chunk_bytes: int) -> Iterator[memoryview]:
    """`data` in pieces that are small enough to hash and write one after the other while they are in the cache."""
    for start in range(0, len(data), chunk_bytes):
        yield data[start : start + chunk_bytes]
