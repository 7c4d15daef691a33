"""Blocks: runs of whole neighbouring samples of one shard, cut at about 8 MiB. What is fetched at once, and shuffled.

One read of 8 MiB costs little more for each byte than one of a whole shard, and one of a single sample a hundred
times as much.

Shapes: b blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from gen_dist.data.index.table import ShardTable

BLOCK_BYTES = 8 << 20
INT32 = ("shard", "num_samples")


@dataclass(frozen=True)
class Blocks:
    """A table of blocks in the order of shards and then of the tar."""

    shard: np.ndarray
    """(b,) int32."""
    first_row: np.ndarray
    """(b,) int64, in the shard's table."""
    num_samples: np.ndarray
    """(b,) int32."""
    first_byte: np.ndarray
    """(b,) int64, of the first member."""
    end_byte: np.ndarray
    """(b,) int64, behind the last member."""

    def __len__(self) -> int:
        return len(self.shard)

    @property
    def num_bytes(self) -> np.ndarray:
        """(b,) int64."""
        return self.end_byte - self.first_byte

    def of_shards(self, shards: Sequence[int]) -> Blocks:
        """Those of some shards, numbered anew in that order."""
        numbers = np.asarray(shards, np.int64)
        first = np.searchsorted(self.shard, numbers, "left")
        counts = np.searchsorted(self.shard, numbers, "right") - first
        before = np.cumsum(counts) - counts  # rows of the shards in front
        rows = np.repeat(first - before, counts) + np.arange(counts.sum())
        new = np.repeat(np.arange(len(numbers), dtype=np.int32), counts)
        chosen = {entry.name: getattr(self, entry.name)[rows] for entry in fields(self)}
        return Blocks(**{**chosen, "shard": new})


def cut(tables: Sequence[ShardTable], *, block_bytes: int = BLOCK_BYTES) -> Blocks:
    """The blocks of all shards. A block begins with the first sample that starts behind a multiple of its size."""
    return join([_cut(table, block_bytes) for table in tables])


def join(parts: Sequence[Blocks]) -> Blocks:
    """The blocks of shards 0, 1, ... from those of each of them alone."""
    numbers = [np.full(len(part), number, np.int32) for number, part in enumerate(parts)]
    names = [entry.name for entry in fields(Blocks) if entry.name != "shard"]
    columns = {name: [getattr(part, name) for part in parts] for name in names} | {"shard": numbers}
    return Blocks(
        **{
            name: np.concatenate([np.empty(0, np.int32 if name in INT32 else np.int64), *arrays])
            for name, arrays in columns.items()
        }
    )


def _cut(table: ShardTable, block_bytes: int) -> Blocks:
    starts, ends = table.first_bytes, table.end_bytes
    first_row = np.flatnonzero(np.diff((starts - starts[:1]) // block_bytes, prepend=-1))
    end_row = np.append(first_row[1:], len(table))[: len(first_row)]
    return Blocks(
        shard=np.zeros(len(first_row), np.int32),
        first_row=first_row.astype(np.int64),
        num_samples=(end_row - first_row).astype(np.int32),
        first_byte=starts[first_row],
        end_byte=ends[end_row - 1],
    )
