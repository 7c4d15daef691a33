"""The members of a tar one after the other, from a stream or a file, however damaged the tar is.

`tarfile` reads each header block; what stands around it is read here, because nothing a header claims may decide how
much memory is taken: extended headers are bounded, sizes are checked, and no payload is read unless it is asked for.
Names are those that `tarfile` gives: GNU long names and pax paths stay whole.
"""

from __future__ import annotations

import errno
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from gen_dist.data.errors import DataError

BLOCK = tarfile.BLOCKSIZE
RECORD_BLOCKS = 20  # tar pads its end to a multiple of this many blocks
MOST_HEADER_BYTES = 1 << 20  # of one extended header: a name longer than this is no name
MOST_BYTES = 1 << 60  # of a shard: beyond it a header lies
PIECE_BYTES = 1 << 20
TOO_FAR = (errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)  # of a seek: farther than the disk lets a file reach
REPACK = "copy the shard again, or write it again with `gen-dist data pack`"
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
PLAIN = re.compile(  # a file, a name without prefix, octal numbers; the checksum has its usual form
    rb".{124}([0-7]{11})[ \0].{12}([0-7]{6})\0 0.{100}ustar.{83}\0.{166}", re.DOTALL
)
EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)


@dataclass(frozen=True)
class Member:
    """One file of the tar; folders, links and devices are passed over."""

    name: str
    header_byte: int
    """Of its first header, extended ones included."""
    first_byte: int
    size_bytes: int
    is_sparse: bool
    """Stored without its holes, so the bytes in the tar are not those of the file."""


class TarReader:
    """Iterate for the members; between two of them `pieces` gives the payload of the one at hand.

    `file` is read from front to back; payloads nobody asked for are skipped with seek where `seeks`, else read. No
    member may end behind `size_bytes`, the size of the whole shard.
    """

    def __init__(
        self,
        file: BinaryIO,
        *,
        where: str,
        seeks: bool,
        start: int = 0,
        end: int = MOST_BYTES,
        size_bytes: int = MOST_BYTES,
    ) -> None:
        self._file, self._where, self._seeks, self._start, self._end = file, where, seeks, start, end
        self._size_bytes = size_bytes
        self._position = start  # of the next byte that the file gives
        self._payload_left = 0

    def __iter__(self) -> Iterator[Member]:
        """Raises: DataError where the tar is compressed, truncated, damaged, or no tar; StoreError."""
        if self._start:
            self._file.seek(self._start)
        while (member := self._next()) is not None:
            after = member.first_byte + _padded(member.size_bytes)
            self._payload_left = member.size_bytes
            yield member
            self._payload_left = 0
            self._skip(after - self._position)

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the member that was given last. Raises: DataError where they end early."""
        while self._payload_left:
            piece = self._read(min(self._payload_left, PIECE_BYTES))
            self._payload_left -= len(piece)
            yield piece

    def _next(self) -> Member | None:
        """The next file with what its extended headers say of it; None at the end of the tar."""
        said: dict[str, str] = {}
        first = self._position
        while self._position < self._end:
            block = self._take(BLOCK)
            header = self._header(block)
            if header is None:
                self._check_end()
                return None
            self._position += BLOCK
            if header.type in EXTENDED:
                for word, value in self._records(header).items():
                    said.setdefault(word, value)  # the first of several counts, as for tarfile
            elif header.type == tarfile.GNUTYPE_LONGNAME:
                said.setdefault("path", _text(self._extended(header).split(b"\0", 1)[0]))
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                self._extended(header)
            elif header.type == tarfile.XGLTYPE:
                if {"path", "size"} & self._records(header).keys():
                    raise self._damage("one extended header names all members", at=first)
            else:
                member = self._member(header, block, said, first)
                if member is not None:
                    return member
                said, first = {}, self._position
        if not first == self._position == self._end:
            raise self._damage(f"a member goes on there, behind byte {self._end}", at=first)
        return None

    def _member(self, header: tarfile.TarInfo, block: bytes, said: dict[str, str], first: int) -> Member | None:
        """The member of a header of its own; None, its payload skipped, where it is no file."""
        sparse = header.type == tarfile.GNUTYPE_SPARSE or any(word.startswith("GNU.sparse.") for word in said)
        more = header.type == tarfile.GNUTYPE_SPARSE and bool(block[482])
        while more:  # blocks of a map of holes
            more = bool(self._read(BLOCK)[504])
        size_bytes = header.size
        if "size" in said:
            if not (said["size"].isascii() and said["size"].isdigit() and len(said["size"]) < 20):
                raise self._damage(f"a size of {said['size'][:40]!r}", at=first)
            size_bytes = int(said["size"])
        has_payload = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES  # a link may tell its target's size
        if not 0 <= size_bytes <= (self._size_bytes if has_payload else MOST_BYTES) - self._position:
            raise self._damage(f"a member of {size_bytes:,} bytes", at=first)
        name = said.get("GNU.sparse.name") or said.get("path") or header.name
        if header.isreg():
            return Member(name, first, self._position, size_bytes, sparse)
        if has_payload:
            self._skip(_padded(size_bytes))  # the others have no payload, whatever their size says
        return None

    def _header(self, block: bytes) -> tarfile.TarInfo | None:
        """A header block as tarfile reads it; None for the zeros that end a tar."""
        plain = plain_header(block)
        if plain is not None:
            return plain
        at_start = self._position == 0
        kind = next((kind for magic, kind in COMPRESSED.items() if at_start and block.startswith(magic)), "")
        if kind:
            remedy = "unpack it to a plain .tar: samples are read by offset"
            raise DataError(f"the shard is compressed ({kind})", shard=self._where, remedy=remedy)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            if len(block) == BLOCK and not block.strip(b"\0"):
                return None
            if at_start:
                raise DataError(
                    f"the shard is truncated or not a tar ({error})", shard=self._where, remedy=REPACK
                ) from error
            raise self._damage("no header there" if block else "it ends without the end mark of a tar") from error
        except (ValueError, OverflowError, IndexError) as error:
            raise self._damage("no header there") from error
        return header

    def _check_end(self) -> None:
        """That nothing follows the end: readers stop there, so what stands behind it would be lost in silence."""
        self._position += BLOCK
        rest = self._take(BLOCK * RECORD_BLOCKS)
        if rest.strip(b"\0"):
            at = self._position + len(rest) - len(rest.lstrip(b"\0"))
            remedy = "put tars together with `tar -A`, not `cat`, or write the shard again"
            raise DataError(f"more data at byte {at}, behind the end of the tar", shard=self._where, remedy=remedy)

    def _extended(self, header: tarfile.TarInfo) -> bytes:
        if not 0 <= header.size <= MOST_HEADER_BYTES:
            raise self._damage(f"an extended header of {header.size:,} bytes")
        return self._read(_padded(header.size))[: header.size]

    def _records(self, header: tarfile.TarInfo) -> dict[str, str]:
        """`LENGTH WORD=VALUE\\n` records of a pax header that have a say in where a member is."""
        at, data, found = self._position, self._extended(header), {}
        place = 0
        while place < len(data) and data[place]:
            digits, space, _ = data[place : place + 12].partition(b" ")
            end = place + int(digits) if space and digits.isdigit() else 0
            word, equals, value = data[place + len(digits) + 1 : max(end - 1, 0)].partition(b"=")
            if not equals or end > len(data) or data[end - 1 : end] != b"\n":
                raise self._damage("a pax header that does not add up", at=at)
            if word in (b"path", b"size") or word.startswith(b"GNU.sparse."):
                text = _text(value)
                found[_text(word)] = text.rstrip("/") if word == b"path" else text
            place = end
        return found

    def _read(self, size_bytes: int) -> bytes:
        data = self._take(size_bytes)
        if len(data) < size_bytes:
            raise self._damage(f"it ends there, inside a member of at least {size_bytes:,} bytes", at=self._position)
        self._position += size_bytes
        return data

    def _take(self, size_bytes: int) -> bytes:
        """Fewer bytes only where the file ends: a raw stream gives what has arrived."""
        data = self._file.read(size_bytes)
        while 0 < len(data) < size_bytes and (more := self._file.read(size_bytes - len(data))):
            data += more
        return data

    def _skip(self, size_bytes: int) -> None:
        if self._seeks and size_bytes:
            self._position += size_bytes
            try:
                self._file.seek(self._position)
            except OSError as error:
                if error.errno not in TOO_FAR:
                    raise
                raise self._damage(f"a member of {size_bytes:,} bytes", at=self._position - size_bytes) from error
            return
        while size_bytes:
            size_bytes -= len(self._read(min(size_bytes, PIECE_BYTES)))

    def _damage(self, what: str, *, at: int | None = None) -> DataError:
        at = self._position if at is None else at
        return DataError(f"the shard is truncated or damaged at byte {at} ({what})", shard=self._where, remedy=REPACK)


def plain_header(block: bytes) -> tarfile.TarInfo | None:
    """What nearly every header is, read in a fifth of tarfile's time; None for any other, which tarfile is to read."""
    found = PLAIN.fullmatch(block)
    if found is None or sum(block) - sum(block[148:156]) + 8 * 0x20 != int(found[2], 8):
        return None
    header = tarfile.TarInfo(_text(block[:100].split(b"\0", 1)[0]))
    header.size = int(found[1], 8)
    return header


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK) * BLOCK


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
