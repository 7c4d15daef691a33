"""A block in memory: the bytes that fields need of a run of neighbouring samples, and where each member is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gen_dist.data.errors import DataError
from gen_dist.data.fields import Source
from gen_dist.data.index import Index

GAP_BYTES = 256 << 10  # between members that are wanted: what costs less to read than another request


@dataclass(frozen=True)
class Block:
    """Shapes: n samples, s sources."""

    first_id: int
    """Number of the first sample in the index."""
    num_bytes: int
    pieces: list[tuple[int, memoryview]]
    """(first byte in the shard, bytes), in their order."""
    offset_bytes: np.ndarray
    """(s, n) int64 in the shard; -1 where the sample has no such member."""
    size_bytes: np.ndarray
    """(s, n) int64."""
    choice: np.ndarray
    """(s, n) int8: which of the source's members it is."""

    def member(self, source: int, row: int) -> tuple[memoryview, int]:
        """(bytes of the member, which of the source's members it is)."""
        start, size = int(self.offset_bytes[source, row]), int(self.size_bytes[source, row])
        for first, data in reversed(self.pieces):
            if first <= start:
                return data[start - first : start - first + size], int(self.choice[source, row])
        raise KeyError(f"source {source} of row {row}")


def read_block(index: Index, number: int, sources: Sequence[Source]) -> Block:
    """Reads what `sources` need of one block. Raises: StoreError; DataError where the shard became shorter."""
    blocks = index.blocks
    shard_number = int(blocks.shard[number])
    shard, store = index.shards[shard_number], index.store_of(shard_number)
    first_row, num_samples = int(blocks.first_row[number]), int(blocks.num_samples[number])
    offsets, sizes, choice = _members(index, shard_number, first_row, num_samples, sources)
    pieces = []
    for start, end in _spans(offsets, sizes):
        data = memoryview(bytearray(end - start))
        received = store.read_into(shard.name, start, data, version=shard.version)
        if received < end - start:
            raise DataError(
                f"the shard ends at byte {start + received} inside a sample, which was whole when indexed",
                shard=f"{store.url}/{shard.name}",
                remedy="keep shards unchanged during a run, and restart it",
            )
        pieces.append((start, data))
    first_id = int(index.first_of_block[number])
    return Block(first_id, sum(len(data) for _, data in pieces), pieces, offsets, sizes, choice)


def _members(
    index: Index, shard: int, first_row: int, num_samples: int, sources: Sequence[Source]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(offset, size, choice), each (sources, samples): the first of a source's members that each sample has."""
    table = index.table(shard)
    bounds = table.first_member[first_row : first_row + num_samples + 1]
    members = slice(int(bounds[0]), int(bounds[-1]))
    extension = table.extension_of[members]
    row_of = np.repeat(np.arange(num_samples), np.diff(bounds))
    place = {name: number for number, name in enumerate(table.extensions)}
    shape = (len(sources), num_samples)
    offsets, sizes, choice = np.full(shape, -1, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int8)
    for number, source in enumerate(sources):
        for rank in reversed(range(len(source.extensions))):  # the first named is written last, and stays
            found = np.flatnonzero(extension == place.get(source.extensions[rank], -1))
            offsets[number, row_of[found]] = table.offset_bytes[members][found]
            sizes[number, row_of[found]] = table.size_bytes[members][found]
            choice[number, row_of[found]] = rank
    return offsets, sizes, choice


def _spans(offsets: np.ndarray, sizes: np.ndarray) -> list[tuple[int, int]]:
    """[start, end) bytes that hold all members, with small gaps read along."""
    wanted = offsets.reshape(-1) >= 0
    starts = offsets.reshape(-1)[wanted]
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    ends = starts + sizes.reshape(-1)[wanted][order]
    if not len(starts):
        return []
    breaks = np.flatnonzero(starts[1:] - ends[:-1] > GAP_BYTES) + 1
    firsts, lasts = np.concatenate([[0], breaks]), np.concatenate([breaks, [len(starts)]]) - 1
    return [(int(starts[a]), int(ends[b])) for a, b in zip(firsts, lasts, strict=True)]
