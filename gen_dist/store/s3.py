"""An S3 prefix: ranged reads that go on from the last received byte after a fault.

Retries are ours and not botocore's, because botocore does not retry a body that breaks off. An answer that will not
change (no bucket, no permission, a changed object) is not retried.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from urllib3.exceptions import HTTPError

from gen_dist.store.base import ObjectInfo, StoreError, literal_head, open_ranged, sorted_matches

BODY_PIECE_BYTES = 1 << 20
NUM_CONNECTIONS = 16

REMEDIES = {
    "NoSuchBucket": "create the bucket, or correct data.url",
    "NoSuchKey": "the object is gone; restart the run to list the shards again",
    "404": "correct data.url, or restart the run to list the shards again",
    "AccessDenied": "allow s3:ListBucket and s3:GetObject for these credentials",
    "AllAccessDisabled": "allow s3:ListBucket and s3:GetObject for these credentials",
    "403": "allow s3:ListBucket and s3:GetObject for these credentials",
    "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID or the profile in use",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY or the profile in use",
    "ExpiredToken": "renew the session token",
    "AuthorizationHeaderMalformed": "set data.s3.region to the region of the bucket",
    "PermanentRedirect": "set data.s3.region and data.s3.endpoint_url to those of the bucket",
    "PreconditionFailed": "the object changed after it was indexed; restart the run, and keep shards unchanged",
    "412": "the object changed after it was indexed; restart the run, and keep shards unchanged",
    "InvalidRange": "the object is shorter than when it was indexed; restart the run, and keep shards unchanged",
}
NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role on every worker"


@dataclass(frozen=True)
class Retries:
    """How long a fault may last. The count starts anew whenever bytes arrive."""

    num_attempts: int = 6
    first_wait_s: float = 0.2
    longest_wait_s: float = 10.0

    def wait_s(self, attempt: int) -> float:
        """A random wait below an exponential bound, so that many workers do not come back at once; attempt 1, 2, ..."""
        bound_s = min(self.longest_wait_s, self.first_wait_s * 2 ** (attempt - 1))
        return random.SystemRandom().uniform(bound_s / 2, bound_s)


class _BrokenBodyError(Exception):
    """A body that ended before its announced length."""


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
    ) -> None:
        if not bucket:
            raise StoreError("s3://: no bucket; write s3://bucket/prefix")
        self.bucket, self.prefix = bucket, prefix
        self.endpoint_url, self.region, self.addressing, self.retries = endpoint_url, region, addressing, retries
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._lock = threading.Lock()
        self._client: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_client")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _client=None)

    def list(self, pattern: str) -> list[ObjectInfo]:
        base = f"{self.prefix}/" if self.prefix else ""
        infos: list[ObjectInfo] = []

        def list_all() -> None:
            infos.clear()
            pages = self._connected().get_paginator("list_objects_v2")
            delimiter = {} if "/" in pattern else {"Delimiter": "/"}  # nothing deeper can match
            for page in pages.paginate(Bucket=self.bucket, Prefix=base + literal_head(pattern), **delimiter):
                for entry in page.get("Contents", []):
                    infos.append(ObjectInfo(entry["Key"].removeprefix(base), entry["Size"], entry.get("ETag", "")))

        self._retrying(list_all, what=f"{self.url}: listing {pattern}", url=self.url, progress=lambda: 0)
        return sorted_matches(infos, pattern)

    def read(self, name: str, start: int = 0, end: int | None = None, *, version: str = "") -> bytes:
        if end is not None and end <= start:
            return b""
        received = bytearray()
        url = f"{self.url}/{name}"
        self._retrying(
            lambda: self._receive(name, start=start, end=end, version=version, received=received),
            what=f"{url}: reading bytes {start}-{'' if end is None else end - 1}",
            url=url,
            progress=lambda: len(received),
        )
        return bytes(received)

    def open(self, name: str, *, version: str = "") -> BinaryIO:
        return open_ranged(self, name, version)

    def _receive(self, name: str, *, start: int, end: int | None, version: str, received: bytearray) -> None:
        """One GET of what is still missing, appended to `received` piece by piece so that a fault keeps it."""
        first = start + len(received)
        request = {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}" if self.prefix else name}
        if first or end is not None:
            request["Range"] = f"bytes={first}-{'' if end is None else end - 1}"
        if version:
            request["IfMatch"] = version
        try:
            answer = self._connected().get_object(**request)
        except ClientError as error:
            if _status(error) == 416:  # at or past the end, which a reader that reads ahead may ask for
                return
            raise
        if "Range" in request and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            raise StoreError(f"{self.url}: the server ignores Range; use one that serves ranged reads", url=self.url)
        missing_bytes = answer["ContentLength"]
        with answer["Body"] as body:
            while missing_bytes:
                piece = body.read(min(missing_bytes, BODY_PIECE_BYTES))
                if not piece:
                    raise _BrokenBodyError(f"the body ended {missing_bytes} bytes early")
                received += piece
                missing_bytes -= len(piece)

    def _retrying(self, step: Callable[[], None], *, what: str, url: str, progress: Callable[[], int]) -> None:
        attempt, num_tries, seen = 0, 0, progress()
        while True:
            attempt, num_tries = attempt + 1, num_tries + 1
            try:
                return step()
            except (ClientError, BotoCoreError, HTTPError, OSError, _BrokenBodyError) as error:
                reason, remedy = self._explain(error)
                if progress() > seen:
                    seen, attempt = progress(), 1
                if (remedy and not _is_passing(error)) or attempt >= self.retries.num_attempts:
                    tries = "1 attempt" if num_tries == 1 else f"{num_tries} attempts"
                    remedy = remedy or "the store is overloaded or faulty; try again later"
                    raise StoreError(
                        f"{what}: {reason} ({tries}); {remedy}", url=url, num_attempts=num_tries
                    ) from error
                time.sleep(self.retries.wait_s(attempt))

    def _explain(self, error: Exception) -> tuple[str, str]:
        """What happened, on one line, and what to do about it ("" where only waiting helps)."""
        if isinstance(error, ClientError):
            answer = error.response.get("Error", {})
            code = str(answer.get("Code", "unknown"))
            text = " ".join(str(answer.get("Message", "")).split()).rstrip(".")
            passing = "" if _is_passing(error) else "check data.url and data.s3"
            return f"{code}: {text}" if text else code, REMEDIES.get(code, passing)
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            return reason, NO_CREDENTIALS
        if isinstance(error, (HTTPError, OSError, _BrokenBodyError)) or _is_passing(error):
            endpoint = self.endpoint_url or "the AWS endpoint"
            return reason, f"check that {endpoint} can be reached from every worker (data.s3.endpoint_url)"
        return reason, "check data.url and data.s3"

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = boto3.session.Session().client(
                    "s3",
                    endpoint_url=self.endpoint_url or None,
                    region_name=self.region or None,
                    config=Config(
                        s3={"addressing_style": self.addressing},
                        retries={"total_max_attempts": 1},
                        connect_timeout=10,
                        read_timeout=60,
                        max_pool_connections=NUM_CONNECTIONS,
                        response_checksum_validation="when_required",  # a range has no checksum of its own
                    ),
                )
            return self._client


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _is_passing(error: Exception) -> bool:
    """Whether the same request may well succeed a little later."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        return _status(error) >= 500 or _status(error) == 429 or code in ("SlowDown", "RequestTimeout", "Throttling")
    if isinstance(error, BotoCoreError):
        names = {kind.__name__ for kind in type(error).__mro__}
        return bool(names & {"HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseStreamingError"})
    return True
