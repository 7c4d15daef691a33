"""Objects written to S3: at once where they are small, in parts where they are large.

A conditional write carries `If-None-Match` or `If-Match`, and looks at the object first as well, because some servers
take such a write without looking at the condition. An answer that is lost leaves open whether the write was done: the
repetition finds out by what the store holds. An upload in parts that fails is ended, so that its parts cost nothing;
one whose process is killed stays until the bucket's lifecycle rule (AbortIncompleteMultipartUpload) removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from gen_dist.store.base import ConflictError, ObjectInfo, StoreError, wrong_length
from gen_dist.store.s3_connection import S3Connection
from gen_dist.store.s3_faults import status_of
from gen_dist.store.s3_read import SIZE_AND_TIME, version_of

PART_BYTES = 16 << 20  # larger files go in parts of this size
MAX_PARTS = 10_000  # S3's limit
NUM_PART_THREADS = 4
REFUSED = (304, 412)  # older MinIO answers a condition that does not hold with 304


def head(connection: S3Connection, name: str) -> ObjectInfo | None:
    """The object as it is now, None where there is none."""
    url = f"{connection.url}/{name}"

    def step() -> ObjectInfo | None:
        try:
            answer = connection.call("head_object", Key=connection.key(name))
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise
        size_bytes = answer["ContentLength"]
        return ObjectInfo(name, size_bytes, version_of(answer.get("ETag", ""), size_bytes, answer.get("LastModified")))

    return connection.retrying(step, what=f"{url}: looking at it", url=url)


def put(connection: S3Connection, name: str, data: bytes, *, if_version: str | None) -> ObjectInfo:
    """One PUT, and a look at what it made.

    Raises: StoreError, also where the condition does not hold (see Store.write).
    """
    url = f"{connection.url}/{name}"
    request: dict[str, Any] = {"Key": connection.key(name), "Body": data, "ContentMD5": _md5(data)}
    if if_version is not None:
        now = head(connection, name)
        if (now.version if now else "") != if_version:
            raise _refused(url, f"its version is {now.version}" if now else "it is gone")
        if if_version == "":
            request["IfNoneMatch"] = "*"
        elif not SIZE_AND_TIME.fullmatch(if_version):
            request["IfMatch"] = if_version
    num_tries = 0

    def step() -> str:
        nonlocal num_tries
        num_tries += 1
        try:
            return str(connection.call("put_object", **request).get("ETag", ""))
        except ClientError as error:
            if if_version is None or status_of(error) not in REFUSED:
                raise
            if num_tries > 1 and _holds(connection, name, data):
                return ""  # an earlier try was done, and its answer lost
            raise _refused(url, "another process has written it meanwhile") from error

    etag = connection.retrying(step, what=f"{url}: writing {len(data)} bytes", url=url)
    connection.stats.add(sent_bytes=len(data))
    return _written(connection, name, len(data), etag=etag)


def put_file(connection: S3Connection, name: str, path: Path) -> ObjectInfo:
    """A file of any size, in parts where it is larger than one; a reader sees all of it or nothing."""
    if not path.is_file():
        raise StoreError(f"{path}: no such file, so {connection.url}/{name} is not written; correct the path")
    size_bytes = path.stat().st_size
    if size_bytes <= PART_BYTES:
        return put(connection, name, path.read_bytes(), if_version=None)
    upload = _Upload(connection, name, size_bytes)
    return upload.run(
        partial(_part_of, path, start, min(upload.part_bytes, size_bytes - start))
        for start in range(0, size_bytes, upload.part_bytes)
    )


def put_stream(connection: S3Connection, name: str, pieces: Iterable[memoryview], *, size_bytes: int) -> ObjectInfo:
    """An object of known size from pieces as they come; a reader sees all of it or nothing."""
    if size_bytes <= PART_BYTES:
        data = b"".join(pieces)
        if len(data) != size_bytes:
            raise wrong_length(f"{connection.url}/{name}", seen_bytes=len(data), size_bytes=size_bytes)
        return put(connection, name, data, if_version=None)
    upload = _Upload(connection, name, size_bytes)
    return upload.run(partial(bytes, part) for part in _joined(pieces, upload.part_bytes))


def enforces_conditions(connection: S3Connection) -> bool:
    """Whether the server looks at If-None-Match: it is asked to make one object twice."""
    name = f".conditions-{uuid.uuid4().hex}"
    url = f"{connection.url}/{name}"

    def step() -> bool:
        try:
            connection.call("put_object", Key=connection.key(name), Body=b"", IfNoneMatch="*")
        except ClientError as error:
            if status_of(error) in REFUSED:
                return True
            raise
        return False

    try:
        first = connection.retrying(step, what=f"{url}: trying a conditional write", url=url)
        return first or connection.retrying(step, what=f"{url}: trying a conditional write", url=url)
    finally:
        with contextlib.suppress(StoreError):
            connection.retrying(
                lambda: connection.call("delete_object", Key=connection.key(name)), what=f"{url}: deleting", url=url
            )


class _Upload:
    """An upload in parts."""

    def __init__(self, connection: S3Connection, name: str, size_bytes: int) -> None:
        self._connection, self._size_bytes = connection, size_bytes
        self._name, self._key, self._url = name, connection.key(name), f"{connection.url}/{name}"
        smallest = -(-size_bytes // MAX_PARTS)
        self.part_bytes = max(PART_BYTES, -(-smallest // (1 << 20)) * (1 << 20))
        answer = connection.retrying(
            lambda: connection.call("create_multipart_upload", Key=self._key),
            what=f"{self._url}: starting an upload",
            url=self._url,
        )
        self._id = answer["UploadId"]
        self._etags: dict[int, str] = {}

    def run(self, parts: Iterable[Callable[[], bytes]]) -> ObjectInfo:
        """Sends the parts, each got where it is sent, and makes the object. Ends the upload where that fails."""
        try:
            self._send_all(parts)
            etag = self._complete()
        except BaseException:
            self._abort()
            raise
        return _written(self._connection, self._name, self._size_bytes, etag=etag)

    def _send_all(self, parts: Iterable[Callable[[], bytes]]) -> None:
        room, has_failed = threading.Semaphore(NUM_PART_THREADS + 1), threading.Event()

        def send(number: int, part: Callable[[], bytes]) -> int:
            try:
                return self._send(number, part())
            except BaseException:
                has_failed.set()
                raise
            finally:
                room.release()

        with ThreadPoolExecutor(NUM_PART_THREADS, thread_name_prefix="gen-dist-upload") as pool:
            sent = []
            for number, part in enumerate(parts):
                room.acquire()
                if has_failed.is_set():
                    break
                sent.append(pool.submit(send, number, part))
            seen_bytes = sum(one.result() for one in sent)
        if seen_bytes != self._size_bytes:
            raise wrong_length(self._url, seen_bytes=seen_bytes, size_bytes=self._size_bytes)

    def _send(self, number: int, data: bytes) -> int:
        request = {"Key": self._key, "UploadId": self._id, "PartNumber": number + 1}
        start = number * self.part_bytes
        answer = self._connection.retrying(
            lambda: self._connection.call("upload_part", Body=data, ContentMD5=_md5(data), **request),
            what=f"{self._url}: writing bytes {start}-{start + len(data) - 1}",
            url=self._url,
        )
        self._connection.stats.add(sent_bytes=len(data))
        self._etags[number] = answer["ETag"]
        return len(data)

    def _complete(self) -> str:
        """Makes the object of the parts; its ETag, "" where the answer with it was lost."""
        parts = [{"PartNumber": number + 1, "ETag": self._etags[number]} for number in sorted(self._etags)]
        num_tries = 0

        def step() -> str:
            nonlocal num_tries
            num_tries += 1
            request = {"Key": self._key, "UploadId": self._id, "MultipartUpload": {"Parts": parts}}
            try:
                return str(self._connection.call("complete_multipart_upload", **request).get("ETag", ""))
            except ClientError as error:
                lost = num_tries > 1 and error.response.get("Error", {}).get("Code") == "NoSuchUpload"
                now = head(self._connection, self._name) if lost else None
                if now is None or now.size_bytes != self._size_bytes:
                    raise
                return ""

        return self._connection.retrying(step, what=f"{self._url}: completing the upload", url=self._url)

    def _abort(self) -> None:
        with contextlib.suppress(StoreError):  # the fault that led here is the one to report
            self._connection.retrying(
                lambda: self._connection.call("abort_multipart_upload", Key=self._key, UploadId=self._id),
                what=f"{self._url}: ending the upload",
                url=self._url,
            )


def _part_of(path: Path, start: int, size_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(size_bytes)
    if len(data) != size_bytes:
        raise StoreError(f"{path}: it shrank while it was uploaded; write it first, then upload it")
    return data


def _joined(pieces: Iterable[memoryview], part_bytes: int) -> Iterator[bytearray]:
    """The same bytes in parts of `part_bytes`, the last one shorter."""
    part = bytearray()
    for piece in pieces:
        while len(piece):
            room = part_bytes - len(part)
            part += piece[:room]
            piece = piece[room:]
            if len(part) == part_bytes:
                yield part
                part = bytearray()
    if part:
        yield part


def _written(connection: S3Connection, name: str, size_bytes: int, *, etag: str) -> ObjectInfo:
    """What a later listing says of the object we wrote: some stores give an ETag for a write and for nothing else."""
    info = head(connection, name)
    if etag and info is not None and info.version and not SIZE_AND_TIME.fullmatch(info.version):
        return ObjectInfo(name, size_bytes, etag)  # of ours, even if someone else has written it since
    if info is None or info.size_bytes != size_bytes:
        seen = f"of {info.size_bytes} bytes" if info else "gone"
        url = f"{connection.url}/{name}"
        raise StoreError(f"{url}: written with {size_bytes} bytes, and is {seen}; let one process write it", url=url)
    return info


def _holds(connection: S3Connection, name: str, data: bytes) -> bool:
    answer = connection.call("get_object", Key=connection.key(name))
    with answer["Body"] as body:
        return bool(answer["ContentLength"] == len(data) and body.read() == data)


def _refused(url: str, why: str) -> StoreError:
    return ConflictError(f"{url}: not written, {why}; another process writes it: read it again, then decide", url=url)


def _md5(data: bytes) -> str:
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
