"""Requests to the objects below one S3 prefix, repeated over faults that pass.

Retries are ours and not boto3's, because it does not retry a body that breaks off.
An answer that will not change (no bucket, no permission, a changed object) is not retried.

A ranged read goes to an address signed beforehand, one for each object: what boto3 does for a request takes as long as
receiving 8 MB. Range and If-Match are no part of the signature. The connections stay boto3's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import boto3
import botocore.loaders
import botocore.session
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gen_dist.store.base import MissingError, NoBucketError, StoreError
from gen_dist.store.s3_faults import FAULTS, Keys, Retries, explain, is_missing, is_passing, no_bucket, refused
from gen_dist.store.stats import StoreStats

NUM_CONNECTIONS = 16
SIGNED_FOR_S = 3600
SIGN_AGAIN_S = 600.0  # well before that, and before the keys of a role that is renewed have run out
MAX_SIGNED = 1 << 16
SAID_AT = 6  # tries in a row without progress, some seconds, before the log hears of it
LOADER = botocore.loaders.create_loader()  # reading the description of S3 anew is most of what a client costs
T = TypeVar("T")

log = logging.getLogger(__name__)


class S3Connection:
    """A boto3 client made on first use in each process; its copies in other processes make their own."""

    def __init__(
        self, *, bucket: str, prefix: str, endpoint_url: str, region: str, addressing: str, retries: Retries, keys: Keys
    ) -> None:
        self.bucket, self.prefix, self.keys = bucket, prefix, keys
        self.endpoint_url, self.region, self.addressing, self.retries = endpoint_url, region, addressing, retries
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.__setstate__({})

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "stats" and not key.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.stats = StoreStats()
        self._lock = threading.Lock()
        self._client: Any = None
        self._client_pid = 0
        self._signed: dict[str, tuple[str, float]] = {}  # by name: the address, and when it was signed

    def key(self, name: str) -> str:
        """The full key of an object."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def call(self, operation: str, **request: Any) -> Any:
        """One request about this bucket, counted; `operation` is a method of boto3's client."""
        method = getattr(self._connected(), operation)
        self.stats.add(num_requests=1)
        return method(Bucket=self.bucket, **request)

    def server_time_s(self) -> float | None:
        """What the server's Date header says, in seconds since 1970. Raises: one of FAULTS where it does not answer."""
        try:
            answer = self.call("head_bucket")
        except ClientError as error:
            answer = error.response
        said = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            return parsedate_to_datetime(said).timestamp()
        except ValueError:
            return None

    def get(self, name: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers in small letters and body (urllib3's response, not read) of a GET.

        Raises: ClientError where the server refuses, or one of FAULTS.
        """
        client = self._connected()
        url, signed_s = self._signed.get(name, ("", 0.0))
        if time.monotonic() - signed_s > SIGN_AGAIN_S or not url:
            if len(self._signed) >= MAX_SIGNED:
                self._signed.clear()
            request = {"Bucket": self.bucket, "Key": self.key(name)}
            url = client.generate_presigned_url("get_object", Params=request, ExpiresIn=SIGNED_FOR_S)
            self._signed[name] = url, time.monotonic()
        self.stats.add(num_requests=1)
        try:
            prepared = AWSRequest("GET", url, headers=dict(headers), stream_output=True).prepare()
            answer = client._endpoint.http_session.send(prepared)
        except BotoCoreError as error:  # its text holds the address, and that the signature
            raise ConnectionError(str(error).replace(url, f"{self.url}/{name}")) from None
        if answer.status_code in (200, 206):
            return answer.status_code, {key.lower(): value for key, value in answer.headers.items()}, answer.raw
        self._signed.pop(name, None)  # the keys may have changed
        raise refused(answer.status_code, answer.content)

    def retrying(self, step: Callable[[], T], *, what: str, url: str, progress: Callable[[], int] = lambda: 0) -> T:
        """What `step` gives in the end; attempts count anew whenever `progress()` has grown.

        Raises: StoreError with `what`, the reason, the number of attempts and a remedy.
        """
        attempt, num_tries, seen = 0, 0, progress()
        while True:
            attempt, num_tries = attempt + 1, num_tries + 1
            try:
                return step()
            except FAULTS as error:
                reason, remedy = explain(error, endpoint_url=self.endpoint_url, keys=self.keys)
                if progress() > seen:
                    seen, attempt = progress(), 1
                if (remedy and not is_passing(error)) or attempt >= self.retries.num_attempts:
                    tries = "1 attempt" if num_tries == 1 else f"{num_tries} attempts"
                    remedy = remedy or "the store is overloaded or faulty; try again later"
                    kind = MissingError if is_missing(error) else NoBucketError if no_bucket(error) else StoreError
                    raise kind(f"{what}: {reason} ({tries}); {remedy}", url=url, num_attempts=num_tries) from error
                self.stats.add(num_retries=1)
                if attempt == SAID_AT:
                    log.warning("event=store_waits what='%s' reason='%s'", what, reason)
                time.sleep(self.retries.wait_s(attempt))

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None or self._client_pid != os.getpid():  # a fork must not share our sockets
                self._client_pid = os.getpid()
                session = botocore.session.Session()
                session.register_component("data_loader", LOADER)
                self._client = boto3.session.Session(botocore_session=session).client(
                    "s3",
                    endpoint_url=self.endpoint_url or None,
                    region_name=self.region or None,
                    config=Config(
                        s3={"addressing_style": self.addressing},
                        signature_version="s3v4",
                        retries={"total_max_attempts": 1},
                        connect_timeout=10,
                        read_timeout=60,
                        max_pool_connections=NUM_CONNECTIONS,
                        response_checksum_validation="when_required",  # a range has no checksum of its own
                        request_checksum_calculation="when_required",  # many stores know Content-MD5 alone
                    ),
                )
            return self._client
