"""Objects of a bucket as files, for the sides that leave the transfer to their user."""

from __future__ import annotations

import io
import os
from functools import cache
from typing import Any, BinaryIO, cast

import boto3
from botocore.config import Config

from tests.speed.stream.task import Task

BUFFER_BYTES = 1 << 20  # a read of the response costs 100 us and more: many small ones would be the slower side's cost


class Body(io.RawIOBase):
    """The response of one GET."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return cast(int, self._response.readinto(buffer))


def body(task: Task, url: str) -> BinaryIO:
    """The object at `s3://bucket/key`, by one GET, read as it is consumed."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    response = _client(task.endpoint_url, os.getpid()).get_object(Bucket=bucket, Key=key)
    return io.BufferedReader(Body(response["Body"]), BUFFER_BYTES)


@cache
def _client(endpoint_url: str, _process: int) -> Any:
    """One a process: connections do not survive a fork."""
    return boto3.session.Session().client(
        "s3", endpoint_url=endpoint_url, config=Config(s3={"addressing_style": "path"})
    )
