"""Samples as they come out of a shard that is read from front to back, and their shuffling in a bounded buffer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gen_dist.data.decode import DecodeError
from gen_dist.data.fields import Source
from gen_dist.data.index.look import MOST_IMAGE_BYTES
from gen_dist.data.index.scan import Row, add
from gen_dist.data.index.tar import TarReader
from gen_dist.store import ObjectInfo, Store

FIRST_BYTES = 32 << 20  # in the shuffle buffer before the first sample leaves it; from there on it grows
SAMPLE_BYTES = 1 << 10  # what a sample costs in memory beside its members


@dataclass(frozen=True)
class Stored:
    """A sample as it came out of a shard."""

    shard: str
    """URL."""
    number: int
    """Its place in the shard."""
    key: str
    members: Mapping[str, bytes]
    """By extension: of those that fields read."""
    fault: str = ""
    """Why it cannot be used."""

    @property
    def num_bytes(self) -> int:
        return SAMPLE_BYTES + sum(len(data) for data in self.members.values())

    def member(self, source: Source) -> tuple[memoryview, str]:
        """(bytes, key into its JSON or "") of the first of a source's members. Raises: DecodeError without one."""
        for extension, key in source.members:
            if extension in self.members:
                return memoryview(self.members[extension]), key
        wanted = " or ".join(f".{extension}" for extension in source.extensions)
        raise DecodeError(f"no member {wanted}")


def read_samples(store: Store, shard: ObjectInfo, extensions: frozenset[str]) -> Iterator[Stored]:
    """The samples of a shard in their order, in one request, with those of their members that are wanted.

    Grouped as in an index; what an index leaves out comes with its fault here.

    Raises: DataError where the shard is truncated, damaged, compressed or no tar; StoreError.
    """
    where = f"{store.url}/{shard.name}"
    with store.stream(shard.name, version=shard.version) as file:
        reader = TarReader(file, where=where, seeks=False, size_bytes=shard.size_bytes)
        rows: list[Row] = []
        held: dict[str, bytes] = {}
        number = 0
        for member in reader:
            add(rows, member, None)
            if len(rows) > 1:
                yield Stored(where, number, rows[0].key, held, rows[0].fault)
                del rows[0]
                held, number = {}, number + 1
            extension = _extension_at(rows, member.first_byte)
            if extension not in extensions or rows[0].fault:
                continue
            if member.size_bytes > MOST_IMAGE_BYTES:
                rows[
                    0
                ].fault = f".{extension} has {member.size_bytes:,} bytes, and a member at most {MOST_IMAGE_BYTES:,}"
            else:
                held[extension] = b"".join(reader.pieces())
        if rows:
            yield Stored(where, number, rows[0].key, held, rows[0].fault)


def _extension_at(rows: Sequence[Row], first_byte: int) -> str:
    """The extension under which the member at a byte was noted; empty where it is of no sample."""
    if not rows or not rows[-1].members:
        return ""
    extension, (first, _, _) = next(reversed(rows[-1].members.items()))
    return extension if first == first_byte else ""


def shuffled(samples: Iterable[Stored], *, limit_bytes: int, random: np.random.Generator) -> Iterator[Stored]:
    """The same samples in another order, mixed in a buffer of `limit_bytes`.

    The buffer begins small, so that the first sample does not wait for all of it, and takes in two for each that
    leaves until it is full.
    """
    held: list[Stored] = []
    held_bytes, wanted_bytes = 0, min(FIRST_BYTES, limit_bytes)
    for sample in samples:
        held.append(sample)
        held_bytes += sample.num_bytes
        while held_bytes > wanted_bytes:
            leaving = _taken(held, random)
            held_bytes -= leaving.num_bytes
            wanted_bytes = min(limit_bytes, wanted_bytes + leaving.num_bytes)
            yield leaving
    while held:
        yield _taken(held, random)


def _taken(held: list[Stored], random: np.random.Generator) -> Stored:
    place = int(random.integers(len(held)))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()
