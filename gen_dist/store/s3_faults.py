"""Faults of an S3 server: which ones pass, and what to write about those that do not."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from urllib3.exceptions import HTTPError

from gen_dist.store.base import CHANGED

READ_RIGHTS = (
    "allow s3:ListBucket and s3:GetObject (to write also s3:PutObject and s3:DeleteObject) for these credentials"
)
REMEDIES = {
    "NoSuchBucket": "create the bucket, or correct {url}",
    "NoSuchKey": "the object is gone; restart the run to list the shards again",
    "NoSuchUpload": "something ended the upload; run the command again",
    "404": "correct {url}, or restart the run to list the shards again",
    "AccessDenied": READ_RIGHTS,
    "AllAccessDisabled": READ_RIGHTS,
    "403": READ_RIGHTS,
    "InvalidAccessKeyId": "correct AWS_ACCESS_KEY_ID or the profile in use",
    "SignatureDoesNotMatch": "correct AWS_SECRET_ACCESS_KEY or the profile in use",
    "ExpiredToken": "renew the session token",
    "RequestTimeTooSkewed": "set the clock of this machine by a time service (chrony, systemd-timesyncd)",
    "AuthorizationHeaderMalformed": "set {s3}.region to the region of the bucket",
    "PermanentRedirect": "set {s3}.region and {s3}.endpoint_url to those of the bucket",
    "PreconditionFailed": CHANGED,
    "412": CHANGED,
    "InvalidRange": "the object is shorter than when it was indexed; restart the run, and keep shards unchanged",
}
NO_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role on every worker"


class Keys(NamedTuple):
    """Keys of a job that say where a store is and how to reach it; errors name them."""

    url: str = "data.url"
    s3: str = "data.s3"


class BrokenBodyError(Exception):
    """A body that ended before its announced length. Passes."""


class ChangedError(Exception):
    """An answer that is not of the version asked for. Does not pass."""


FAULTS = (ClientError, BotoCoreError, HTTPError, OSError, BrokenBodyError, ChangedError)


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


PATIENT = Retries(num_attempts=42)
"""Four to six minutes: as long as a server of objects, or a network, takes to be replaced."""


def refused(status: int, body: bytes) -> ClientError:
    """The error that boto3 would have made of an answer to a GET."""
    found = {name: re.search(rf"<{name}>([^<]*)</{name}>".encode(), body[:4096]) for name in ("Code", "Message")}
    error = {name: match[1].decode(errors="replace") for name, match in found.items() if match}
    answer: dict[str, Any] = {"Error": {"Code": str(status), **error}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetObject")


def status_of(error: ClientError) -> int:
    """The HTTP status of an answer that is an error."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_missing(error: Exception) -> bool:
    """Whether the bucket is there and the object is not."""
    return isinstance(error, ClientError) and error.response.get("Error", {}).get("Code", "") in ("NoSuchKey", "404")


def no_bucket(error: Exception) -> bool:
    """Whether the server knows no bucket of that name."""
    return isinstance(error, ClientError) and error.response.get("Error", {}).get("Code", "") == "NoSuchBucket"


def is_passing(error: Exception) -> bool:
    """Whether the same request may well succeed a little later."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        status = status_of(error)
        if status == 409:  # of two conditional writes at once
            return code == "ConditionalRequestConflict"
        return status >= 500 or status == 429 or code in ("SlowDown", "RequestTimeout", "Throttling", "BadDigest")
    if isinstance(error, BotoCoreError):
        names = {kind.__name__ for kind in type(error).__mro__}
        return bool(names & {"HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseStreamingError"})
    return not isinstance(error, ChangedError)


def explain(error: Exception, *, endpoint_url: str, keys: Keys = Keys()) -> tuple[str, str]:
    """What happened, on one line, and what to do about it ("" where only waiting helps)."""
    if isinstance(error, ClientError):
        answer = error.response.get("Error", {})
        code = str(answer.get("Code", "unknown"))
        text = " ".join(str(answer.get("Message", "")).split()).rstrip(".")
        passing = "" if is_passing(error) else "check {url} and {s3}"
        return f"{code}: {text}" if text else code, REMEDIES.get(code, passing).format_map(keys._asdict())
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ChangedError):
        return reason, CHANGED
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return reason, NO_CREDENTIALS
    if is_passing(error):
        endpoint = endpoint_url or "the AWS endpoint"
        return reason, f"check that {endpoint} can be reached from every worker ({keys.s3}.endpoint_url)"
    return reason, f"check {keys.url} and {keys.s3}"
