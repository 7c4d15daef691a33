"""Objects written to S3: at once where they are small, in parts where they are large.

A conditional write carries `If-None-Match` or `If-Match`, and looks at the object first as well, because some servers
take such a write without looking at the condition. An answer that is lost leaves open whether the write was done: the
repetition finds out by what the store holds. An upload in parts that fails is ended, so that its parts cost nothing;
one whose process is killed stays until the bucket's lifecycle rule (AbortIncompleteMultipartUpload) removes it.
"""

from __future__ import annotations

import contextlib
import hashlib
from base64 import b64encode
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from gen_dist.store.base import ObjectInfo, StoreError
from gen_dist.store.s3_connection import S3Connection
from gen_dist.store.s3_faults import status_of
from gen_dist.store.s3_read import SIZE_AND_TIME, version_of

PART_BYTES = 16 << 20  # larger files go in parts of this size
MAX_PARTS = 10_000  # S3's limit
NUM_PART_THREADS = 4


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
            if if_version is None or status_of(error) != 412:
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
    upload = _Upload(connection, name, path, size_bytes)
    try:
        upload.send_parts()
        etag = upload.complete()
    except BaseException:
        upload.abort()
        raise
    return _written(connection, name, size_bytes, etag=etag)


class _Upload:
    """An upload in parts."""

    def __init__(self, connection: S3Connection, name: str, path: Path, size_bytes: int) -> None:
        self._connection, self._path, self._size_bytes = connection, path, size_bytes
        self._name, self._key, self._url = name, connection.key(name), f"{connection.url}/{name}"
        smallest = -(-size_bytes // MAX_PARTS)
        self._part_bytes = max(PART_BYTES, -(-smallest // (1 << 20)) * (1 << 20))
        self._num_parts = -(-size_bytes // self._part_bytes)
        answer = connection.retrying(
            lambda: connection.call("create_multipart_upload", Key=self._key),
            what=f"{self._url}: starting an upload",
            url=self._url,
        )
        self._id = answer["UploadId"]
        self._etags: dict[int, str] = {}

    def send_parts(self) -> None:
        with ThreadPoolExecutor(NUM_PART_THREADS, thread_name_prefix="gen-dist-upload") as pool:
            sent = [pool.submit(self._send, number) for number in range(self._num_parts)]
            done, waiting = wait(sent, return_when=FIRST_EXCEPTION)
            for part in waiting:
                part.cancel()
            for part in done:
                part.result()

    def _send(self, number: int) -> None:
        start = number * self._part_bytes
        with self._path.open("rb") as file:
            file.seek(start)
            data = file.read(self._part_bytes)
        if len(data) != min(self._part_bytes, self._size_bytes - start):
            raise StoreError(f"{self._path}: it shrank while it was uploaded; write it first, then upload it")
        request = {"Key": self._key, "UploadId": self._id, "PartNumber": number + 1}
        answer = self._connection.retrying(
            lambda: self._connection.call("upload_part", Body=data, ContentMD5=_md5(data), **request),
            what=f"{self._url}: writing bytes {start}-{start + len(data) - 1}",
            url=self._url,
        )
        self._connection.stats.add(sent_bytes=len(data))
        self._etags[number] = answer["ETag"]

    def complete(self) -> str:
        """Makes the object of the parts; its ETag, "" where the answer with it was lost."""
        parts = [{"PartNumber": number + 1, "ETag": self._etags[number]} for number in range(self._num_parts)]
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

    def abort(self) -> None:
        with contextlib.suppress(StoreError):  # the fault that led here is the one to report
            self._connection.retrying(
                lambda: self._connection.call("abort_multipart_upload", Key=self._key, UploadId=self._id),
                what=f"{self._url}: ending the upload",
                url=self._url,
            )


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
    return StoreError(f"{url}: not written, {why}; another process writes it: read it again, then decide", url=url)


def _md5(data: bytes) -> str:
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
