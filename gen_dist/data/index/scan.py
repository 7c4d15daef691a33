"""From the headers of a tar to the table of its samples, grouped as webdataset groups them.

A sample is what webdataset makes of the same tar: neighbouring members whose names agree up to the first dot.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from webdataset.tariterators import base_plus_ext

from gen_dist.data.errors import DataError
from gen_dist.data.index.table import LeftOut, ShardTable

REPACK = "write the shard again with webdataset.TarWriter, or copy it again"


@dataclass
class _Row:
    """One sample as it is read."""

    key: str
    members: list[tuple[str, int, int]] = field(default_factory=list)
    fault: str = ""


def scan_shard(file: BinaryIO, *, where: str) -> ShardTable:
    """The table of one shard. Samples that cannot be told apart are left out and listed.

    Raises: DataError where the shard is truncated, compressed or no tar.
    """
    magic = file.read(2)
    file.seek(0)
    if magic == b"\x1f\x8b":
        raise DataError(
            "the shard is compressed", shard=where, remedy="unpack it to a plain .tar: samples are read by offset"
        )
    rows: list[_Row] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.isreg():
                    _add(rows, member)
                tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header
            end = tar.offset
    except tarfile.TarError as error:
        raise DataError(f"the shard is truncated or not a tar ({error})", shard=where, remedy=REPACK) from error
    # tarfile takes a missing end for an end, so a shard that was cut between two members looks whole to it
    file.seek(end)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
        raise DataError(f"the shard is truncated or damaged at byte {end}", shard=where, remedy=REPACK)
    return _table(rows)


def _add(rows: list[_Row], member: tarfile.TarInfo) -> None:
    key, extension = base_plus_ext(member.name)
    if key is None or _is_meta(member.name):
        return
    if not rows or rows[-1].key != key:
        rows.append(_Row(key))
    row, extension = rows[-1], extension.lower()
    if member.issparse():
        row.fault = f"{member.name} is stored sparse"
    elif any(extension == other for other, _, _ in row.members):
        row.fault = f"two members .{extension}"
    row.members.append((extension, member.offset_data, member.size))


def _table(rows: list[_Row]) -> ShardTable:
    good = [row for row in rows if not row.fault]
    extensions: dict[str, int] = {}
    members = [member for row in good for member in row.members]
    numbers = [extensions.setdefault(extension, len(extensions)) for extension, _, _ in members]
    keys = [row.key.encode("utf-8", "surrogateescape") for row in good]
    return ShardTable(
        extensions=list(extensions),
        key_bytes=np.frombuffer(b"".join(keys), np.uint8),
        key_end=np.cumsum([len(key) for key in keys], dtype=np.int64),
        first_member=np.cumsum([0, *(len(row.members) for row in good)], dtype=np.int64),
        extension_of=np.array(numbers, np.int16),
        offset_bytes=np.array([offset for _, offset, _ in members], np.int64),
        size_bytes=np.array([size for _, _, size in members], np.int64),
        crc32=np.empty(0, np.uint32),
        width_px=np.zeros(len(good), np.int32),
        height_px=np.zeros(len(good), np.int32),
        left_out=[LeftOut(row.key, row.fault) for row in rows if row.fault],
    )


def _is_meta(name: str) -> bool:
    """Whether it is a record of webdataset's own, such as `__index__`, and no sample."""
    head = name.split("/", 1)[0]
    return head.startswith("__") and head.endswith("__") and len(head) >= 4
