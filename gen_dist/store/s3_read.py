"""Bodies of S3 objects, in one piece or as a stream, that go on from the last received byte after a fault.

All answers of one read are of one version of the object: the one asked for, else that of the first answer.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from gen_dist.store.base import StoreError
from gen_dist.store.s3_connection import S3Connection
from gen_dist.store.s3_faults import BrokenBodyError, ChangedError, status_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BODY_PIECE_BYTES = 1 << 20
TAIL_BYTES = 1 << 10
SIZE_AND_TIME = re.compile(r"(\d+)-\d+")  # an ETag has quotes


def version_of(etag: str, size_bytes: int, modified: datetime | None) -> str:
    """The ETag, else size and time: whole seconds, as headers have them, though listings are finer. Else empty."""
    return etag or (f"{size_bytes}-{int(modified.timestamp())}" if modified else "")


class Answer:
    """A GET of [start, end) whose body is read by the caller; `end` None is the end of the object.

    `size_bytes` is that of the object, `missing_bytes` what the body still has to give. An answer past the end of the
    object has no body: `missing_bytes` is 0 from the start.
    """

    def __init__(self, connection: S3Connection, name: str, *, start: int, end: int | None, version: str) -> None:
        self._connection = connection
        self.version, self.missing_bytes = version, 0
        self._body: Any = None
        self._plain: http.client.HTTPResponse | None = None
        asked: dict[str, str] = {}
        if start or end is not None:
            asked["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        by_size = SIZE_AND_TIME.fullmatch(version)
        if version and not by_size:
            asked["If-Match"] = version
        try:
            status, headers, self._body = connection.get(name, asked)
        except ClientError as error:
            if status_of(error) != 416:
                raise
            if by_size and start < int(by_size[1]):
                raise ChangedError(f"it had {by_size[1]} bytes and has no byte {start}") from error
            if version and not by_size:  # some servers look at the range first, and so hide that it changed
                connection.call("head_object", Key=connection.key(name), IfMatch=version)
            return  # at or past the end, which a reader that reads ahead may ask for
        try:
            self._accept(status, headers, ranged="Range" in asked, start=start)
        except BaseException:
            self.close()
            raise

    def _accept(self, status: int, headers: Mapping[str, str], *, ranged: bool, start: int) -> None:
        self._plain = _plain(self._body)
        self.missing_bytes = int(headers.get("content-length", -1))
        if self.missing_bytes < 0:
            raise BrokenBodyError("the answer does not say how long it is")
        size_bytes = self.missing_bytes
        if ranged:
            served = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("content-range", ""))
            if status != 206 or not served or int(served[1]) != start:
                url = self._connection.url
                raise StoreError(f"{url}: the server ignores Range; use one that serves ranged reads", url=url)
            size_bytes = int(served[2])
        etag, modified = headers.get("etag", ""), _time(headers.get("last-modified", ""))
        if SIZE_AND_TIME.fullmatch(self.version):  # listed without an ETag: one that is given now says nothing
            etag = ""
        elif self.version and not etag:
            return  # the server held it against If-Match, and does not repeat it
        seen = version_of(etag, size_bytes, modified)
        if self.version and seen != self.version:
            raise ChangedError(f"its version was {self.version} and is {seen or 'not given'}")
        self.version = seen

    def readinto(self, view: memoryview) -> int:
        """Fills at most a piece of `view`; 0 at the end of the body. Raises BrokenBodyError where it ends early."""
        view = view[: min(len(view), self.missing_bytes, BODY_PIECE_BYTES)]
        if not view:
            return 0
        if self._plain is not None and self.missing_bytes > TAIL_BYTES:
            num_bytes = self._plain.readinto(view[: self.missing_bytes - TAIL_BYTES])
        else:
            num_bytes = self._body.readinto(view)
        if not num_bytes:
            raise BrokenBodyError(f"the body ended {self.missing_bytes} bytes early")
        self.missing_bytes -= num_bytes
        self._connection.stats.add(received_bytes=num_bytes)
        return num_bytes

    def close(self) -> None:
        """Gives the connection back, or ends it where the body was not read to its end."""
        if self._body is not None:
            with contextlib.suppress(Exception):
                self._body.close()


def _time(text: str) -> datetime | None:
    """Of a header."""
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None


def _plain(body: Any) -> http.client.HTTPResponse | None:
    """The response below a body, which reads into our room without a copy; None where it would need decoding.

    The last bytes are left to the body, so that urllib3 sees the end and takes the connection back.
    """
    below = getattr(body, "_fp", None)
    return below if isinstance(below, http.client.HTTPResponse) and not below.chunked else None


class Reception:
    """What a ranged read received so far, into room that is given, or made once the first answer says how much."""

    def __init__(self, connection: S3Connection, name: str, *, start: int, version: str) -> None:
        self._connection, self._name = connection, name
        self._start, self._version = start, version
        self.num_bytes = 0
        self.room: memoryview | None = None

    def receive(self, end: int | None) -> None:
        """One GET of what is still missing of [start, end); what comes before a fault is kept."""
        if end is not None and self._start + self.num_bytes >= end:
            return
        start = self._start + self.num_bytes
        answer = Answer(self._connection, self._name, start=start, end=end, version=self._version)
        try:
            self._version = answer.version
            if self.room is None:
                self.room = memoryview(bytearray(answer.missing_bytes))
            if answer.missing_bytes > len(self.room) - self.num_bytes:
                raise ChangedError(f"{answer.missing_bytes} bytes more, where {len(self.room)} were announced")
            while num_bytes := answer.readinto(self.room[self.num_bytes :]):
                self.num_bytes += num_bytes
        finally:
            answer.close()


class ObjectStream(io.RawIOBase):
    """An object from its first byte to its last. Forward only; a reader that stops early closes it."""

    def __init__(self, connection: S3Connection, name: str, *, version: str) -> None:
        self._connection, self._name, self._version = connection, name, version
        self._url = f"{connection.url}/{name}"
        self._position = 0
        self._answer: Answer | None = None

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        what = f"{self._url}: reading on from byte {self._position}"
        num_bytes = self._connection.retrying(lambda: self._receive(view), what=what, url=self._url)
        self._position += num_bytes
        return num_bytes

    def close(self) -> None:
        self._drop()
        super().close()

    def _receive(self, view: memoryview) -> int:
        if self._answer is None:
            version = self._version
            answer = Answer(self._connection, self._name, start=self._position, end=None, version=version)
            self._answer, self._version = answer, answer.version
        try:
            return self._answer.readinto(view)
        except BaseException:
            self._drop()
            raise

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None
