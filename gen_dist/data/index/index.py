"""Index: the samples of the shards of a run by number, and where their bytes are.

It comes from the manifest that `gen-dist data index` wrote, and reads the table of a shard when somebody needs it; or
from the headers of the tars themselves, all of them, at the start of the run.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from gen_dist.data.errors import DataError
from gen_dist.data.index.blocks import Blocks
from gen_dist.data.index.manifest import Shard
from gen_dist.data.index.table import AGAIN, SUFFIX, ShardTable
from gen_dist.store import MissingError, ObjectInfo, Store

TABLES_BYTES = 256 << 20  # of tables kept in memory where they come from sidecars
BYTES_PER_SAMPLE = 100  # what a sample of three members takes of them


@dataclass(frozen=True)
class Sample:
    """One sample of a shard."""

    shard: ObjectInfo
    key: str
    members: Mapping[str, tuple[int, int]]
    """By extension, lower case: (first byte in the shard, size in bytes)."""


class Index:
    """Sample i of N, in the order of shard names and then of the tar. Pickles; several threads may use it at once."""

    def __init__(
        self,
        shards: Sequence[Shard],
        blocks: Blocks,
        *,
        store: Store,
        tables: Sequence[ShardTable] | None = None,
        unproved: Sequence[bool] | None = None,
    ) -> None:
        self.shards, self.blocks = list(shards), blocks
        self._stores = [store] * len(self.shards)
        self.first_sample = np.concatenate([[0], np.cumsum([shard.num_samples for shard in self.shards])])
        """(shards + 1,) int64: sample numbers at which shards begin."""
        self.first_of_block = np.concatenate([[0], np.cumsum(blocks.num_samples, dtype=np.int64)])
        """(blocks + 1,) int64: sample numbers at which blocks begin."""
        self._tables: list[ShardTable | None] = list(tables) if tables is not None else [None] * len(self.shards)
        self.unproved = list(unproved) if unproved is not None else [False] * len(self.shards)
        """By shard: whether its version is not the one that was indexed, so that only checksums tell a copy from a
        change."""
        self._kept: OrderedDict[int, ShardTable] = OrderedDict()
        self._lock = threading.Lock()
        self.derived: Index | None = None
        """Other members of the same samples: shard and row there are those here. See `gen_dist.data.derived`."""

    def __len__(self) -> int:
        return int(self.first_sample[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def is_stored(self) -> bool:
        """Whether it was made beforehand, and not from the tars at the start of this run."""
        return all(table is None for table in self._tables)

    @property
    def num_left_out(self) -> int:
        return sum(shard.num_left_out for shard in self.shards)

    def table(self, number: int) -> ShardTable:
        """Of one shard. Raises: DataError where its sidecar is missing or of another shard; StoreError."""
        held = self._tables[number]
        if held is not None:
            return held
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        table = read_table(self._stores[number], self.shards[number])
        with self._lock:
            self._kept[number] = table
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) * BYTES_PER_SAMPLE > TABLES_BYTES:
                self._kept.popitem(last=False)
        return table

    def store_of(self, number: int) -> Store:
        """Where one shard is."""
        return self._stores[number]

    def with_derived(self, derived: Index) -> Index:
        """The same samples, with the members that `derived` has of them."""
        other = copy.copy(self)
        other.derived = derived
        return other

    def store_counts(self) -> dict[str, int]:
        """What its stores did so far in this process, see `StoreStats`."""
        held = self._stores if self.derived is None else [*self._stores, *self.derived._stores]
        stores = {id(store): store for store in held}
        counts = [store.stats.counts() for store in stores.values()]
        return {name: sum(count[name] for count in counts) for name in counts[0]}

    def locate(self, sample_id: int) -> tuple[int, int]:
        """(number of the shard, row in its table)."""
        number = int(np.searchsorted(self.first_sample, sample_id, "right")) - 1
        return number, sample_id - int(self.first_sample[number])

    def blocks_of(self, ids: np.ndarray) -> np.ndarray:
        """(count,) int64: the block of each sample."""
        return np.searchsorted(self.first_of_block, ids, "right") - 1

    def sample(self, sample_id: int) -> Sample:
        number, row = self.locate(sample_id)
        shard, table = self.shards[number], self.table(number)
        info = ObjectInfo(shard.name, shard.size_bytes, shard.version)
        return Sample(shard=info, key=table.key(row), members=table.members(row))

    def sizes_px(self, ids: np.ndarray) -> np.ndarray:
        """(count, 2) int32 of (width, height); 0 where nobody looked."""
        found = np.zeros((len(ids), 2), np.int32)
        numbers = np.searchsorted(self.first_sample, ids, "right") - 1
        for number in np.unique(numbers).tolist():
            here = numbers == number
            table, rows = self.table(number), ids[here] - self.first_sample[number]
            found[here] = np.stack([table.width_px[rows], table.height_px[rows]], axis=1)
        return found

    def first_without(self, extensions: Sequence[str]) -> int | None:
        """The first sample that has a member of none of these extensions, or None."""
        for number, shard in enumerate(self.shards):
            counts = [shard.num_by_extension.get(extension, 0) for extension in extensions]
            if max(counts, default=0) == shard.num_samples:
                continue  # one member a sample and extension: every sample has one
            table = self.table(number)
            wanted = [place for place, name in enumerate(table.extensions) if name in extensions]
            has = np.logical_or.reduceat(np.isin(table.extension_of, wanted), table.first_member[:-1])
            if not has.all():
                return int(self.first_sample[number]) + int(np.argmin(has))
        return None

    @cached_property
    def digest(self) -> str:
        """sha256 of shard names and sizes and of every sample's name, members, offsets and sizes.

        The same shards have the same digest in a folder and in a bucket.
        """
        sha = hashlib.sha256()
        for shard in self.shards:
            sha.update(f"{shard.name}\0{shard.size_bytes}\0{shard.digest}\n".encode("utf-8", "surrogatepass"))
        return sha.hexdigest()


def joined(indices: Sequence[Index]) -> Index:
    """Several indices as one: samples, shards and blocks follow each other in the order given."""
    if len(indices) == 1:
        return indices[0]
    firsts = np.concatenate([[0], np.cumsum([len(index.shards) for index in indices])])
    columns = {
        entry.name: np.concatenate([getattr(index.blocks, entry.name) for index in indices]) for entry in fields(Blocks)
    }
    moved = np.repeat(firsts[:-1], [len(index.blocks) for index in indices]).astype(np.int32)
    blocks = Blocks(**{**columns, "shard": columns["shard"] + moved})
    shards = [shard for index in indices for shard in index.shards]
    whole = Index(shards, blocks, store=indices[0].store_of(0))
    whole._stores = [store for index in indices for store in index._stores]
    whole._tables = [table for index in indices for table in index._tables]
    whole.unproved = [flag for index in indices for flag in index.unproved]
    derived = [index.derived for index in indices if index.derived is not None]
    if len(derived) == len(indices):
        whole.derived = joined(derived)
    return whole


def read_table(store: Store, shard: Shard) -> ShardTable:
    """The sidecar of a shard. Raises: DataError where it is missing or of another shard; StoreError."""
    name = shard.name + SUFFIX
    try:
        data = bytes(store.read(name))
    except MissingError as error:  # the shards and index.gdx were copied without it, for example
        what, remedy = "the table of this shard is missing", f"run `gen-dist data index {store.url}`"
        raise DataError(what, shard=f"{store.url}/{name}", remedy=remedy) from error
    table = ShardTable.from_bytes(data, where=f"{store.url}/{name}")
    if table.digest != shard.digest or (len(table) and int(table.end_bytes.max()) > shard.size_bytes):
        raise DataError("the table of a shard and the manifest disagree", shard=f"{store.url}/{name}", remedy=AGAIN)
    return table
