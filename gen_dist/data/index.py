"""Which samples the shards hold and where their bytes are, read from the tar headers alone.

A sample is what webdataset makes of the same tar: neighbouring members whose names agree up to the first dot.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import BinaryIO

import numpy as np
from webdataset.tariterators import base_plus_ext

from gen_dist.data.errors import DataError
from gen_dist.store import ObjectInfo, Store

REPACK = "write the shard again with webdataset.TarWriter, or copy it again"


@dataclass(frozen=True)
class Sample:
    """One sample of a shard."""

    shard: ObjectInfo
    key: str
    members: Mapping[str, tuple[int, int]]
    """By extension, lower case: (first byte in the shard, size in bytes)."""


@dataclass(frozen=True)
class Index:
    """All samples of a set of shards, in the order of shard names and then of the tar; arrays, so that 1e6 stay small.

    Shapes: N samples, M members. Sample i has the members [first_member[i], first_member[i + 1]).
    """

    shards: list[ObjectInfo]
    extensions: list[str]
    keys: list[str]  # (N,)
    shard_of: np.ndarray  # (N,) int32
    first_member: np.ndarray  # (N + 1,) int64
    extension_of: np.ndarray  # (M,) int32
    offset_bytes: np.ndarray  # (M,) int64
    size_bytes: np.ndarray  # (M,) int64

    def __len__(self) -> int:
        return len(self.keys)

    def sample(self, sample_id: int) -> Sample:
        members = range(int(self.first_member[sample_id]), int(self.first_member[sample_id + 1]))
        return Sample(
            shard=self.shards[int(self.shard_of[sample_id])],
            key=self.keys[sample_id],
            members={
                self.extensions[int(self.extension_of[m])]: (int(self.offset_bytes[m]), int(self.size_bytes[m]))
                for m in members
            },
        )

    def first_without(self, extensions: Sequence[str]) -> int | None:
        """The first sample that has a member of none of these extensions, or None."""
        wanted = [number for number, name in enumerate(self.extensions) if name in extensions]
        has = np.logical_or.reduceat(np.isin(self.extension_of, wanted), self.first_member[:-1])
        return None if has.all() else int(np.argmin(has))

    @cached_property
    def digest(self) -> str:
        """sha256 of shard names and sizes and of every sample's name, members, offsets and sizes.

        The same shards have the same digest in a folder and in a bucket.
        """
        sha = hashlib.sha256()
        for shard in self.shards:
            sha.update(f"{shard.name}\0{shard.size_bytes}\n".encode())
        sha.update("\0".join(self.keys).encode())
        sha.update("\0".join(self.extensions).encode())
        for array in (self.shard_of, self.first_member, self.extension_of, self.offset_bytes, self.size_bytes):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()


@dataclass
class _Builder:
    """Grows an index member by member."""

    shards: list[ObjectInfo] = field(default_factory=list)
    extensions: dict[str, int] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    shard_of: list[int] = field(default_factory=list)
    first_member: list[int] = field(default_factory=list)
    extension_of: list[int] = field(default_factory=list)
    offset_bytes: list[int] = field(default_factory=list)
    size_bytes: list[int] = field(default_factory=list)

    def add(self, member: tarfile.TarInfo, *, where: str) -> None:
        key, extension = base_plus_ext(member.name)
        if key is None or _is_meta(member.name):
            return
        if member.issparse():
            raise DataError(f"{member.name} is stored sparse", shard=where, key=key, remedy=REPACK)
        number = self.extensions.setdefault(extension.lower(), len(self.extensions))
        shard = len(self.shards) - 1
        if not self.keys or self.keys[-1] != key or self.shard_of[-1] != shard:
            self.keys.append(key)
            self.shard_of.append(shard)
            self.first_member.append(len(self.extension_of))
        elif number in self.extension_of[self.first_member[-1] :]:
            remedy = "give each sample of a shard a name of its own"
            raise DataError(f"two members .{extension.lower()}", shard=where, key=key, remedy=remedy)
        self.extension_of.append(number)
        self.offset_bytes.append(member.offset_data)
        self.size_bytes.append(member.size)

    def finish(self) -> Index:
        return Index(
            shards=self.shards,
            extensions=list(self.extensions),
            keys=self.keys,
            shard_of=np.array(self.shard_of, np.int32),
            first_member=np.array([*self.first_member, len(self.extension_of)], np.int64),
            extension_of=np.array(self.extension_of, np.int32),
            offset_bytes=np.array(self.offset_bytes, np.int64),
            size_bytes=np.array(self.size_bytes, np.int64),
        )


def build_index(store: Store, pattern: str) -> Index:
    """The index of all shards of a store that match a glob; reads every shard's headers once.

    Raises: DataError where no shard matches, a shard is no complete tar, or no sample is found; StoreError.
    """
    shards = store.list(pattern)
    if not shards:
        near = [info.name for info in store.list("*")][:5]
        seen = ", ".join(near) if near else "nothing"
        remedy = f"correct the pattern or the url (the top of it holds {seen})"
        raise DataError(f"{store.url}: no shard matches {pattern!r}", remedy=remedy)
    builder = _Builder()
    for shard in shards:
        builder.shards.append(shard)
        with store.open(shard.name, version=shard.version) as file:
            _read_headers(file, builder, where=f"{store.url}/{shard.name}")
    if not builder.keys:
        remedy = "write members as key.extension, for example 000001.png and 000001.txt"
        raise DataError(f"{store.url}: the shards that match {pattern!r} hold no samples", remedy=remedy)
    return builder.finish()


def _read_headers(file: BinaryIO, builder: _Builder, *, where: str) -> None:
    magic = file.read(2)
    file.seek(0)
    if magic == b"\x1f\x8b":
        raise DataError(
            "the shard is compressed", shard=where, remedy="unpack it to a plain .tar: samples are read by offset"
        )
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.isreg():
                    builder.add(member, where=where)
                tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header
            end = tar.offset
    except tarfile.TarError as error:
        raise DataError(f"the shard is truncated or not a tar ({error})", shard=where, remedy=REPACK) from error
    # tarfile takes a missing end for an end, so a shard that was cut between two members looks whole to it
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
        raise DataError(f"the shard is truncated or damaged at byte {end}", shard=where, remedy=REPACK)


def _is_meta(name: str) -> bool:
    """Whether it is a record of webdataset's own, such as `__index__`, and no sample."""
    head = name.split("/", 1)[0]
    return head.startswith("__") and head.endswith("__") and len(head) >= 4
