"""Energon's `NAME.tar.idx` beside a shard: where its samples begin, so that several threads can read its headers.

The file is little-endian uint64: the byte of the first header of each sample, then that of the tar's end. It is only
believed after each of its numbers was found again among the headers themselves.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gen_dist.data.errors import DataError
from gen_dist.data.index.scan import Row, scan_range, table_of
from gen_dist.data.index.table import ShardTable
from gen_dist.data.index.tar import BLOCK
from gen_dist.store import ObjectInfo, Store

NUM_RANGES = 8
MIN_RANGE_BYTES = 16 << 20  # a range is read ahead in pieces of 4 MiB


def idx_name(shard: str) -> str:
    """Of the file beside a shard."""
    return f"{shard}.idx"


def scan_with_idx(store: Store, shard: ObjectInfo) -> ShardTable:
    """The table of one shard from its headers, as `scan_shard` makes it without a look.

    Raises: DataError where the shard is damaged, or the idx is of another shard; StoreError.
    """
    where = f"{store.url}/{shard.name}"
    starts = _starts(store, shard)
    num_ranges = max(1, min(NUM_RANGES, shard.size_bytes // MIN_RANGE_BYTES, len(starts) - 1))
    borders = [0] + [int(starts[number * (len(starts) - 1) // num_ranges]) for number in range(1, num_ranges + 1)]

    def scan(number: int) -> list[Row]:
        with store.open(shard.name, version=shard.version) as file:
            start, end = borders[number], borders[number + 1]
            return scan_range(file, where=where, start=start, end=end, size_bytes=shard.size_bytes)

    try:
        with ThreadPoolExecutor(num_ranges, thread_name_prefix="gen-dist-idx") as pool:
            rows = [row for part in pool.map(scan, range(num_ranges)) for row in part]
    except DataError as error:
        raise _wrong(store, shard, f"reading where it says: {error.what}") from error
    parted = any(row.key == after.key for row, after in itertools.pairwise(rows))
    if parted or [row.header_byte for row in rows] != starts[:-1].tolist():
        raise _wrong(store, shard, f"it names {len(starts) - 1:,} samples, and the tar has others")
    end = store.read(shard.name, borders[-1], borders[-1] + BLOCK, version=shard.version)
    if len(end) < BLOCK or end.strip(b"\0"):
        raise _wrong(store, shard, f"the tar does not end at byte {borders[-1]}")
    return table_of(rows, where=where, looked=False)


def _starts(store: Store, shard: ObjectInfo) -> np.ndarray:
    """(samples + 1,) uint64, rising from 0 and inside of the shard."""
    data = bytes(store.read(idx_name(shard.name), 0, shard.size_bytes // BLOCK * 8 + 9))
    starts = np.frombuffer(data[: len(data) // 8 * 8], "<u8")
    if len(data) % 8 or len(starts) < 1 or (starts[1:] <= starts[:-1]).any() or starts[-1] > shard.size_bytes:
        raise _wrong(store, shard, "its numbers do not rise inside of the shard")
    return starts


def _wrong(store: Store, shard: ObjectInfo, why: str) -> DataError:
    where = f"{store.url}/{idx_name(shard.name)}"
    return DataError(
        f"not the index of this shard ({why})", shard=where, remedy="delete it, or let Energon write it again"
    )
