"""An S3 prefix as a store: ranged reads that go on after a fault, pinned versions, conditional and multipart writes."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, cast

from gen_dist.store.base import ObjectInfo, StoreError, checked_name, literal_head, open_ranged, sorted_matches
from gen_dist.store.s3_connection import S3Connection
from gen_dist.store.s3_faults import PATIENT, Keys, Retries
from gen_dist.store.s3_read import BODY_PIECE_BYTES, ObjectStream, Reception, version_of
from gen_dist.store.s3_write import enforces_conditions, put, put_file, put_stream
from gen_dist.store.stats import StoreStats

__all__ = ["Keys", "Retries", "S3Store"]


class S3Store:
    """Objects below `s3://bucket/prefix`, with credentials from boto3's usual chain and never from the job."""

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str = "",
        endpoint_url: str = "",
        region: str = "",
        addressing: str = "auto",
        retries: Retries = Retries(),
        keys: Keys = Keys(),
    ) -> None:
        if not bucket:
            raise StoreError("s3://: no bucket; write s3://bucket/prefix")
        self._connection = S3Connection(
            bucket=bucket,
            prefix=prefix,
            endpoint_url=endpoint_url,
            region=region,
            addressing=addressing,
            retries=retries,
            keys=keys,
        )

    @property
    def url(self) -> str:
        return self._connection.url

    @property
    def stats(self) -> StoreStats:
        return self._connection.stats

    def list(self, pattern: str) -> list[ObjectInfo]:
        connection = self._connection
        base = f"{connection.prefix}/" if connection.prefix else ""
        request: dict[str, Any] = {"Prefix": base + literal_head(pattern)}
        if "/" not in pattern:
            request["Delimiter"] = "/"  # nothing deeper can match
        infos: list[ObjectInfo] = []
        while True:
            page = connection.retrying(
                lambda: connection.call("list_objects_v2", **request),
                what=f"{self.url}: listing {pattern}",
                url=self.url,
            )
            for entry in page.get("Contents", []):
                version = version_of(entry.get("ETag", ""), entry["Size"], entry.get("LastModified"))
                infos.append(ObjectInfo(entry["Key"].removeprefix(base), entry["Size"], version))
            if not page.get("IsTruncated"):
                return sorted_matches(infos, pattern)
            request["ContinuationToken"] = page["NextContinuationToken"]

    def read(self, name: str, start: int = 0, end: int | None = None, *, version: str = "") -> bytes:
        if end is not None and end <= start:
            return b""
        reception = Reception(self._connection, name, start=start, version=version)
        self._receive(reception, name, start, end)
        return bytes(reception.room[: reception.num_bytes]) if reception.room is not None else b""

    def read_into(self, name: str, start: int, out: memoryview, *, version: str = "") -> int:
        reception = Reception(self._connection, name, start=start, version=version)
        reception.room = out
        self._receive(reception, name, start, start + len(out))
        return reception.num_bytes

    def open(self, name: str, *, version: str = "") -> BinaryIO:
        return open_ranged(self, name, version)

    def stream(self, name: str, *, version: str = "") -> BinaryIO:
        stream = ObjectStream(self._connection, name, version=version)
        return cast(BinaryIO, io.BufferedReader(stream, BODY_PIECE_BYTES))

    def write(self, name: str, data: bytes, *, if_version: str | None = None) -> ObjectInfo:
        return put(self._connection, checked_name(name, url=self.url), data, if_version=if_version)

    def write_file(self, name: str, path: Path) -> ObjectInfo:
        return put_file(self._connection, checked_name(name, url=self.url), path)

    def write_stream(self, name: str, pieces: Iterable[memoryview], *, size_bytes: int) -> ObjectInfo:
        return put_stream(self._connection, checked_name(name, url=self.url), pieces, size_bytes=size_bytes)

    def sweep(self, pattern: str) -> int:
        return 0

    def be_patient(self) -> None:
        self._connection.retries = PATIENT

    def enforces_conditions(self) -> bool:
        return enforces_conditions(self._connection)

    def clock_s(self) -> float | None:
        """The server's clock, whole seconds since 1970; None where it tells none. Raises: StoreError."""
        return self._connection.retrying(self._connection.server_time_s, what=f"{self.url}: its clock", url=self.url)

    def delete(self, name: str) -> None:
        key = self._connection.key(checked_name(name, url=self.url))
        url = f"{self.url}/{name}"
        self._connection.retrying(
            lambda: self._connection.call("delete_object", Key=key), what=f"{url}: deleting", url=url
        )

    def _receive(self, reception: Reception, name: str, start: int, end: int | None) -> None:
        url = f"{self.url}/{name}"
        self._connection.retrying(
            lambda: reception.receive(end),
            what=f"{url}: reading bytes {start}-{'' if end is None else end - 1}",
            url=url,
            progress=lambda: reception.num_bytes,
        )
