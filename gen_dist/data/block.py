"""A block in memory: the bytes that fields need of a run of neighbouring samples, and where each member is in them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gen_dist.data.buffers import Rooms
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
    pieces: tuple[list[tuple[int, memoryview]], ...]
    """(first byte in the shard, bytes), in their order: of the shard, and of the one derived from it."""
    is_derived: tuple[bool, ...]
    """(s,): which of the two holds each source."""
    offset_bytes: list[list[int]]
    """(s, n), in its shard; -1 where the sample has no such member. Lists: they are read number by number."""
    size_bytes: list[list[int]]
    """(s, n)."""
    choice: list[list[int]]
    """(s, n): which of the source's members it is."""

    def member(self, source: int, row: int) -> memoryview:
        """The bytes of the member; none where the sample has no such member, which then does not decode."""
        pieces = self.pieces[self.is_derived[source]]
        return _bytes_at(pieces, self.offset_bytes[source][row], self.size_bytes[source][row])


def read_block(index: Index, number: int, sources: Sequence[Source], rooms: Rooms) -> Block:
    """Reads what `sources` need of one block.

    Raises: StoreError; DataError where the shard became shorter, or is another one than was indexed.
    """
    blocks = index.blocks
    rows = int(blocks.shard[number]), int(blocks.first_row[number]), int(blocks.num_samples[number])
    is_derived = tuple(source.is_derived for source in sources)
    shape = (len(sources), rows[2])
    offsets, sizes, choice = np.full(shape, -1, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int8)
    pieces: tuple[list[tuple[int, memoryview]], ...] = ([], [])
    for derived, origin in enumerate((index, index.derived)):
        here = [place for place, flag in enumerate(is_derived) if flag == bool(derived)]
        if origin is not None and here:
            offsets[here], sizes[here], choice[here] = _members(origin, *rows, [sources[place] for place in here])
            pieces[derived].extend(_read(origin, rows[0], _spans(offsets[here], sizes[here]), rooms))
            if origin.unproved[rows[0]]:
                _prove(origin, rows[0], offsets[here], pieces[derived])
    num_bytes = sum(len(data) for held in pieces for _, data in held)
    first_id = int(index.first_of_block[number])
    return Block(first_id, num_bytes, pieces, is_derived, offsets.tolist(), sizes.tolist(), choice.tolist())


def _read(
    index: Index, shard_number: int, spans: Sequence[tuple[int, int]], rooms: Rooms
) -> Iterator[tuple[int, memoryview]]:
    """(first byte, bytes) of each span of one shard."""
    shard, store = index.shards[shard_number], index.store_of(shard_number)
    for start, end in spans:
        data = rooms.take(end - start)
        received = store.read_into(shard.name, start, data, version=shard.version)
        if received < end - start:
            raise DataError(
                f"the shard ends at byte {start + received} inside a sample, which was whole when indexed",
                shard=f"{store.url}/{shard.name}",
                remedy="keep shards unchanged during a run, and restart it",
            )
        yield start, data


def _prove(index: Index, number: int, offsets: np.ndarray, pieces: Sequence[tuple[int, memoryview]]) -> None:
    """Holds the members at these offsets, -1 for none, against their checksums.

    An index that was made from headers alone has none, and then nothing can be told.

    Raises: DataError where one differs.
    """
    table = index.table(number)
    if not len(table.crc32):
        return
    for member in np.searchsorted(table.offset_bytes, np.unique(offsets[offsets >= 0])).tolist():
        data = _bytes_at(pieces, int(table.offset_bytes[member]), int(table.size_bytes[member]))
        if zlib.crc32(data) != table.crc32[member]:
            row = int(np.searchsorted(table.first_member, member, "right")) - 1
            url = index.store_of(number).url
            raise DataError(
                f"other bytes than were indexed (.{table.extensions[int(table.extension_of[member])]})",
                shard=f"{url}/{index.shards[number].name}",
                key=table.key(row),
                remedy=f"run `gen-dist data index {url}` again",
            )


def _bytes_at(pieces: Sequence[tuple[int, memoryview]], start: int, size_bytes: int) -> memoryview:
    """Of pieces that rise; none for a `start` before all of them."""
    for first, data in reversed(pieces):
        if first <= start:
            return data[start - first : start - first + size_bytes]
    return memoryview(b"")


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
