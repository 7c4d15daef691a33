"""From a tar to the table of its samples, grouped as webdataset groups them.

A sample is what webdataset makes of the same tar: neighbouring members whose names agree up to the first dot behind the
last `/`. The rest of the name, in lower case, is the extension.

| in the tar | what becomes of it |
| --- | --- |
| folders, links, devices; names without a dot; `.hidden`; `__meta__` and what is below | passed over |
| `./a.jpg`, names of any length, of any letters | taken as they are written |
| two members of one extension; a sparse member; an image without bytes | the sample is left out and listed |
| an image that cannot be decoded (when looked at) | the sample is left out and listed |
| a key that comes again further on | a sample of its own; `data verify` tells of it |
| a text without bytes, a sample without a caption | taken; `data verify --job` tells of it |
| truncated, compressed, damaged, more data behind its end; thousands of extensions | the shard is refused |
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from gen_dist.data.decode.errors import DecodeError
from gen_dist.data.errors import DataError
from gen_dist.data.index.look import MOST_IMAGE_BYTES, chosen, is_image, size_px
from gen_dist.data.index.table import LeftOut, ShardTable
from gen_dist.data.index.tar import MOST_BYTES, Member, TarReader

MOST_EXTENSIONS = 4096
META = re.compile(r"__[^/]*__($|/)")  # webdataset's own records, such as `__index__`


@dataclass
class Row:
    """One sample as it is read."""

    key: str
    header_byte: int
    members: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """By extension: (first byte, size, crc32)."""
    sizes: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    """(extension, (width, height)) of its images."""
    fault: str = ""


def scan_shard(file: BinaryIO, *, where: str, look: bool = False, size_bytes: int = MOST_BYTES) -> ShardTable:
    """The table of one shard. Samples that cannot be used are left out and listed.

    `size_bytes`: of the shard, where it is known; a member that claims more is refused before it is looked for.

    With `look` the file is read once from front to back, and need not seek: every member gets its checksum, and every
    image is decoded and measured.

    Raises: DataError where the shard is truncated, damaged, compressed or no tar; StoreError.
    """
    reader = TarReader(file, where=where, seeks=not look, size_bytes=size_bytes)
    rows: list[Row] = []
    for member in reader:
        add(rows, member, reader if look else None)
    return table_of(rows, where=where, looked=look)


def scan_range(file: BinaryIO, *, where: str, start: int, end: int, size_bytes: int) -> list[Row]:
    """The samples whose first headers are in bytes [start, end) of a shard, from headers alone.

    Raises: DataError, also where `start` or `end` is no border of two members; StoreError.
    """
    rows: list[Row] = []
    for member in TarReader(file, where=where, seeks=True, start=start, end=end, size_bytes=size_bytes):
        add(rows, member, None)
    return rows


def add(rows: list[Row], member: Member, reader: TarReader | None) -> None:
    """Puts the next member of a tar into its row: the last one, or a new one. `reader` gives what to look at."""
    key, extension = key_and_extension(member.name)
    if key is None or extension is None or META.match(member.name):
        return
    if not rows or rows[-1].key != key:
        rows.append(Row(key, member.header_byte))
    row, extension = rows[-1], extension.lower()
    image = is_image(extension)
    if member.is_sparse:
        row.fault = f".{extension} is stored sparse"
    elif extension in row.members:
        row.fault = f"two members .{extension}"
    elif image and not member.size_bytes:
        row.fault = f".{extension} has no bytes"
    crc32 = 0
    if reader is not None:
        crc32, data = _payload(reader, kept=image and not row.fault and member.size_bytes <= MOST_IMAGE_BYTES)
        if image and not row.fault:
            _measure(row, extension, member.size_bytes, data)
    row.members[extension] = (member.first_byte, member.size_bytes, crc32)


def _payload(reader: TarReader, *, kept: bool) -> tuple[int, bytes]:
    """(crc32, the bytes where they are kept)"""
    crc32, pieces = 0, []
    for piece in reader.pieces():
        crc32 = zlib.crc32(piece, crc32)
        if kept:
            pieces.append(piece)
    return crc32, pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _measure(row: Row, extension: str, size_bytes: int, data: bytes) -> None:
    if size_bytes > MOST_IMAGE_BYTES:
        row.fault = f".{extension} has {size_bytes:,} bytes, and an image at most {MOST_IMAGE_BYTES:,}"
        return
    try:
        row.sizes.append((extension, size_px(data)))
    except DecodeError as error:
        row.fault = f".{extension} cannot be decoded ({error})"


def table_of(rows: list[Row], *, where: str, looked: bool) -> ShardTable:
    """Raises: DataError for more extensions than a data set has."""
    good = [row for row in rows if not row.fault]
    extensions: dict[str, int] = {}
    members = [member for row in good for member in row.members.values()]
    numbers = [extensions.setdefault(extension, len(extensions)) for row in good for extension in row.members]
    if len(extensions) > MOST_EXTENSIONS:
        seen = ", ".join(f".{extension}" for extension in list(extensions)[:3])
        remedy = "write keys without a dot: what follows the first dot is the extension"
        raise DataError(f"{len(extensions):,} different extensions ({seen}, ...)", shard=where, remedy=remedy)
    keys = [row.key.encode("utf-8", "surrogateescape") for row in good]
    sizes = np.array([chosen(row.sizes) for row in good], np.int32).reshape(len(good), 2)
    return ShardTable(
        extensions=list(extensions),
        key_bytes=np.frombuffer(b"".join(keys), np.uint8),
        key_end=np.cumsum([len(key) for key in keys], dtype=np.int64),
        first_member=np.cumsum([0, *(len(row.members) for row in good)], dtype=np.int64),
        extension_of=np.array(numbers, np.int16),
        offset_bytes=np.array([first for first, _, _ in members], np.int64),
        size_bytes=np.array([size for _, size, _ in members], np.int64),
        crc32=np.array([crc for _, _, crc in members] if looked else [], np.uint32),
        width_px=np.ascontiguousarray(sizes[:, 0]),
        height_px=np.ascontiguousarray(sizes[:, 1]),
        left_out=[LeftOut(row.key, row.fault) for row in rows if row.fault],
    )


_SAMPLE = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")


def key_and_extension(name: str) -> tuple[str, str] | tuple[None, None]:
    """The sample that a member belongs to and what it is of it: `a/b.seg.png` -> `a/b`, `seg.png`.

    webdataset's own rule, written down here because importing webdataset imports torch; a test compares the two.
    """
    found = _SAMPLE.match(name)
    return (found[1], found[2]) if found else (None, None)
