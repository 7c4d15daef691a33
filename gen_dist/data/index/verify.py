"""What a run would trip over, looked for beforehand: changed or damaged shards, missing tables, doubled samples.

The index is read whole, and of the shards a share of the blocks or every byte. A finding that would stop a run is told
apart from one that would not.
"""

from __future__ import annotations

import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gen_dist.data.errors import DataError
from gen_dist.data.index.build import tars
from gen_dist.data.index.find import faults, index_from, index_of, read_manifest, scan_headers
from gen_dist.data.index.index import Index
from gen_dist.data.index.manifest import NAME
from gen_dist.data.index.scan import scan_shard
from gen_dist.data.index.table import ShardTable
from gen_dist.data.index.tar import BLOCK
from gen_dist.store import ObjectInfo, Store, StoreError

SMALL_BYTES = 4 << 20  # of a shard: less than one block
UNEVEN = 8  # times the middle shard
NUM_BLOCKS = 64  # read where not all are
MOST_KEYS = 50_000_000  # compared in memory, 8 bytes each

Check = Callable[[str, dict[str, bytes]], None]
"""Told of each sample that is read: (where it is, its bytes by extension)."""


@dataclass(frozen=True)
class Finding:
    """One thing that was seen, on one line, with what to do about it."""

    line: str
    stops: bool = False
    """Whether a run would end by it."""


class Verification:
    """Iterate for findings as they are made; the fields say afterwards what was looked at."""

    def __init__(self, store: Store, patterns: Sequence[str], *, every_byte: bool = False, check: Check | None = None):
        self._store, self._patterns, self._every_byte, self._check = store, patterns, every_byte, check
        self._again = f"run `gen-dist data index {store.url}` again"
        self.index: Index | None = None
        """Of the shards that can be used; None where none can."""
        self.num_shards = self.num_checked_blocks = 0

    def __iter__(self) -> Iterator[Finding]:
        """Raises: DataError where no shard matches; StoreError where the store cannot be listed."""
        shards = tars(self._store, self._patterns)
        self.num_shards = len(shards)
        yield from self._sizes(shards)
        if self._store.list(NAME):
            yield from self._find_in_manifest(shards)
        else:
            yield from self._no_manifest()
            yield from self._find_in_headers(shards)
        index = self.index
        if index is None or not len(index):
            self.index = None
            yield Finding(f"{self._store.url}: no sample can be used; mend the shards named above", stops=True)
            return
        yield from self._left_out(index)
        yield from self._keys(index)
        yield from self._shards(index) if self._every_byte else self._some_blocks(index)

    def _sizes(self, shards: Sequence[ObjectInfo]) -> Iterator[Finding]:
        """One or two shards are no data set to judge."""
        if len(shards) < 3:
            return
        sizes = np.array([shard.size_bytes for shard in shards])
        remedy = "`gen-dist data pack` writes shards of one size"
        num_small = int((sizes < SMALL_BYTES).sum())
        if num_small * 2 > len(shards):
            what = f"{num_small:,} of {len(shards):,} shards have less than {SMALL_BYTES >> 20} MiB, so reads are short"
            yield Finding(f"{self._store.url}: {what}; {remedy}")
        largest, middle = int(sizes.argmax()), max(1.0, float(np.median(sizes)))
        if sizes[largest] > UNEVEN * middle:
            what = f"{sizes[largest]:,} bytes, {sizes[largest] / middle:.0f} times those of the middle shard"
            yield Finding(f"{self._store.url}/{shards[largest].name}: {what}; {remedy}")

    def _no_manifest(self) -> Iterator[Finding]:
        if self._store.url.startswith("embedded://"):
            return  # nobody can write there, and it is small
        remedy = f"run `gen-dist data index {self._store.url}`: runs then start at once, without bad images"
        yield Finding(f"{self._store.url}: no index, so every run reads all headers first; {remedy}")

    def _find_in_headers(self, shards: Sequence[ObjectInfo]) -> Iterator[Finding]:
        good: list[ObjectInfo] = []
        tables: list[ShardTable] = []
        for shard in shards:
            try:
                tables.append(scan_headers(self._store, shard))
                good.append(shard)
            except (DataError, StoreError) as error:
                yield Finding(str(error), stops=True)
        self.index = index_of(self._store, good, tables) if good else None

    def _find_in_manifest(self, shards: Sequence[ObjectInfo]) -> Iterator[Finding]:
        try:
            manifest = read_manifest(self._store)
        except (DataError, StoreError) as error:
            yield Finding(str(error), stops=True)
            return
        found = list(faults(self._store, shards, manifest))
        bad = {fault.shard for fault in found}
        yield from (Finding(str(fault), stops=True) for fault in found)
        good = [shard for shard in shards if f"{self._store.url}/{shard.name}" not in bad]
        index = index_from(self._store, good, manifest) if good else None
        readable = []
        for number, shard in enumerate(good):
            facts = index.shards[number] if index is not None else None
            if index is None or facts is None or not facts.digest:
                what = f"{self._store.url}/{shard.name}: left out whole, as it could not be read"
                yield Finding(f"{what}; mend it and {self._again}")
                continue
            try:
                index.table(number)
                readable.append(shard)
            except (DataError, StoreError) as error:
                yield Finding(str(error), stops=True)
        yield from self._gone({shard.name for shard in manifest.shards})
        self.index = index_from(self._store, readable, manifest) if readable else None

    def _gone(self, known: set[str]) -> Iterator[Finding]:
        folders = sorted({name.rpartition("/")[0] for name in known})
        there = {info.name for folder in folders for info in self._store.list(f"{folder}/*" if folder else "*")}
        gone = sorted(known - there)
        if gone:
            what = f"{len(gone):,} indexed shards are gone ({', '.join(gone[:3])})"
            yield Finding(f"{self._store.url}: {what}; bring them back, or {self._again}")

    def _left_out(self, index: Index) -> Iterator[Finding]:
        """One line a shard, with its first sample and the commonest reasons."""
        for number, shard in enumerate(index.shards):
            if not shard.num_left_out:
                continue
            left = index.table(number).left_out
            reasons = ", ".join(
                f"{count} x {reason}" for reason, count in Counter(e.reason for e in left).most_common(3)
            )
            share = f"{len(left):,} of {len(left) + shard.num_samples:,} samples are left out"
            where = f"{self._store.url}/{shard.name}: sample {left[0].key!r}" if left else shard.name
            yield Finding(f"{where}: {share} ({reasons}); mend them in the source and pack the shard again")

    def _keys(self, index: Index) -> Iterator[Finding]:
        """Keys that two samples have: the same picture twice, or two that a tool which goes by keys mixes up."""
        if len(index) > MOST_KEYS:
            yield Finding(
                f"{self._store.url}: keys of more than {MOST_KEYS:,} samples are not compared; verify by parts"
            )
            return
        hashes = np.empty(len(index), np.uint64)
        for sample_id, key in enumerate(_all_keys(index)):
            hashes[sample_id] = hash(key) & (2**64 - 1)
        order = np.argsort(hashes, kind="stable")
        again = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
        if len(again):
            sample = index.sample(int(again.min()))
            what = f"the key comes a second time, as do {len(again):,} keys in all"
            remedy = "leave one out, or give samples names of their own"
            yield Finding(f"{self._store.url}/{sample.shard.name}: sample {sample.key!r}: {what}; {remedy}")

    def _some_blocks(self, index: Index) -> Iterator[Finding]:
        """A share of the blocks, evenly spread: headers in their places, checksums, and what `check` finds."""
        chosen = np.unique(np.linspace(0, len(index.blocks) - 1, NUM_BLOCKS).round().astype(int)).tolist()
        for block in chosen:
            yield from self._block(index, block)

    def _shards(self, index: Index) -> Iterator[Finding]:
        """Every byte: each shard scanned anew and compared with its table, and what `check` finds."""
        for number, shard in enumerate(index.shards):
            where, table = f"{self._store.url}/{shard.name}", index.table(number)
            try:
                with self._store.stream(shard.name, version=shard.version) as file:
                    seen = scan_shard(file, where=where, look=True, size_bytes=shard.size_bytes)
            except (DataError, StoreError) as error:
                yield Finding(str(error), stops=True)
                continue
            if len(table.crc32) and len(seen.crc32) and seen.digest == table.digest:
                wrong = np.flatnonzero(seen.crc32 != table.crc32)
                if len(wrong):
                    yield self._other_bytes(where, table, int(wrong[0]), len(wrong))
            elif seen.digest != table.digest:
                yield self._other_samples(where, table, seen)
        for block in range(len(index.blocks)) if self._check else ():
            yield from self._block(index, block)

    def _block(self, index: Index, block: int) -> Iterator[Finding]:
        blocks, number = index.blocks, int(index.blocks.shard[block])
        shard, table = index.shards[number], index.table(number)
        where, first = f"{self._store.url}/{shard.name}", int(blocks.first_byte[block]) - BLOCK
        self.num_checked_blocks += 1
        try:
            data = self._store.read(shard.name, max(first, 0), int(blocks.end_byte[block]), version=shard.version)
        except StoreError as error:
            yield Finding(str(error), stops=True)
            return
        first_row = int(blocks.first_row[block])
        for row in range(first_row, first_row + int(blocks.num_samples[block])):
            wrong = _wrong_member(table, row, data, first)
            if wrong is not None:
                yield self._other_bytes(where, table, wrong, 1)
                return
            if self._check is not None:
                members = {
                    e: bytes(data[at - first : at - first + size]) for e, (at, size) in table.members(row).items()
                }
                self._check(f"{where}: sample {table.key(row)!r}", members)

    def _other_bytes(self, where: str, table: ShardTable, member: int, count: int) -> Finding:
        row = int(np.searchsorted(table.first_member, member, "right")) - 1
        extension = table.extensions[int(table.extension_of[member])]
        what = f"sample {table.key(row)!r}: {count:,} members, .{extension} first, are not as they were indexed"
        return Finding(f"{where}: {what}; copy the shard again, or {self._again} with --again", stops=True)

    def _other_samples(self, where: str, table: ShardTable, seen: ShardTable) -> Finding:
        """A table made from headers alone holds samples that a look leaves out: that stops no run by itself."""
        if not len(table.crc32) and len(seen) + len(seen.left_out) == len(table) + len(table.left_out):
            left = seen.left_out[0] if seen.left_out else None
            what = (
                f"{len(seen.left_out):,} samples cannot be used ({left.key}: {left.reason})" if left else "it differs"
            )
            return Finding(f"{where}: {what}; {self._again} without --headers-only: they are left out then")
        what = f"{len(seen):,} samples, and {len(table):,} were indexed, or others"
        return Finding(f"{where}: {what}; {self._again} with --again", stops=True)


def _all_keys(index: Index) -> Iterator[bytes]:
    for number in range(len(index.shards)):
        table = index.table(number)
        text, first = table.key_bytes.tobytes(), 0
        for end in table.key_end.tolist():
            yield text[first:end]
            first = end


def _wrong_member(table: ShardTable, row: int, data: bytes, first: int) -> int | None:
    """The number of the first member of a sample that is not where, or not what, the table says."""
    for member in range(int(table.first_member[row]), int(table.first_member[row + 1])):
        at, size = int(table.offset_bytes[member]) - first, int(table.size_bytes[member])
        try:
            tarfile.TarInfo.frombuf(data[at - BLOCK : at], "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError, OverflowError, IndexError):
            return member
        if len(data) < at + size or (len(table.crc32) and zlib.crc32(data[at : at + size]) != table.crc32[member]):
            return member
    return None
