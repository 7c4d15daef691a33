"""Manifest: the shards of a prefix and their blocks, in one file `index.gdx` beside them. A run reads it once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from gen_dist.data.errors import DataError
from gen_dist.data.index.blocks import Blocks, cut
from gen_dist.data.index.table import AGAIN, ShardTable, json_array, json_of, read_arrays, write_arrays

NAME = "index.gdx"
FORMAT = "gen-dist manifest 1"


@dataclass(frozen=True)
class Shard:
    """One tar, as it was when it was indexed."""

    name: str
    size_bytes: int
    version: str
    num_samples: int
    num_by_extension: dict[str, int]
    digest: str
    """Of its table; empty where the shard could not be read and was left out whole."""
    num_left_out: int = 0


def shard_of(name: str, size_bytes: int, version: str, table: ShardTable) -> Shard:
    return Shard(name, size_bytes, version, len(table), table.num_by_extension(), table.digest, len(table.left_out))


@dataclass(frozen=True)
class Manifest:
    """All that the order of samples and the plan of reads need."""

    shards: list[Shard]
    blocks: Blocks

    @classmethod
    def of(cls, shards: list[Shard], tables: list[ShardTable]) -> Manifest:
        return cls(shards, cut(tables))

    def to_bytes(self) -> bytes:
        arrays = {entry.name: getattr(self.blocks, entry.name) for entry in fields(Blocks)}
        shards = json_array([vars(shard) for shard in self.shards])  # asdict would copy for seconds
        return write_arrays({**arrays, "shards": shards}, {"format": FORMAT})

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Manifest:
        """Raises: DataError for anything that no `to_bytes` wrote."""
        arrays, about = read_arrays(data, where=where, form=FORMAT)
        try:
            shards = [_shard(record) for record in json_of("shards", arrays, about)]
            blocks = Blocks(**{entry.name: arrays[entry.name] for entry in fields(Blocks)})
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"no manifest ({error})", shard=where, remedy=AGAIN) from error
        fault = _fault(shards, blocks)
        if fault:
            raise DataError(f"a damaged manifest: {fault}", shard=where, remedy=AGAIN)
        return cls(shards, blocks)


def _shard(record: dict[str, Any]) -> Shard:
    shard = Shard(**record)  # checked below
    numbers = (shard.size_bytes, shard.num_samples, shard.num_left_out, *shard.num_by_extension.values())
    texts = (shard.name, shard.version, shard.digest, *shard.num_by_extension)
    if not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise ValueError("a count is no whole number")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name is no text")
    return shard


def _fault(shards: list[Shard], blocks: Blocks) -> str:
    dtypes = {"shard": np.int32, "num_samples": np.int32}
    for entry in fields(Blocks):
        array = getattr(blocks, entry.name)
        if array.dtype != dtypes.get(entry.name, np.int64) or array.shape != blocks.shard.shape or array.ndim != 1:
            return f"blocks.{entry.name} has the wrong shape or type"
    ends = np.array([shard.size_bytes for shard in shards], np.int64)
    if not len(blocks):
        return "" if not any(shard.num_samples for shard in shards) else "no blocks"
    if blocks.shard.min() < 0 or blocks.shard.max() >= len(shards) or (np.diff(blocks.shard) < 0).any():
        return "a block of no shard"
    if blocks.num_samples.min() < 1 or blocks.first_byte.min() < 0 or (blocks.num_bytes < 0).any():
        return "an empty block"
    if (blocks.end_byte > ends[blocks.shard]).any():
        return "a block ends behind its shard"
    total = np.bincount(blocks.shard, weights=blocks.num_samples, minlength=len(shards))
    if total.tolist() != [shard.num_samples for shard in shards]:
        return "blocks and shards count other samples"
    start = np.concatenate([[0], np.cumsum(blocks.num_samples)[:-1]])
    base = np.concatenate([[0], np.cumsum([shard.num_samples for shard in shards])])[blocks.shard]
    return "" if np.array_equal(start - base, blocks.first_row) else "blocks do not follow each other"
