"""The options that the data verbs share, and the store that they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gen_dist.job.spec import S3Spec
    from gen_dist.store import Store

Endpoint = Annotated[str, typer.Option("--endpoint-url", help="Address of an S3 store that is not AWS.")]
Region = Annotated[str, typer.Option("--region", help="Region of the bucket.")]
Addressing = Annotated[str, typer.Option("--addressing", help="auto; bucket in the path; or in a virtual host.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, errors included.")]


def s3_of(endpoint_url: str, region: str, addressing: str) -> S3Spec:
    """How these options reach an object store. Raises: StoreError for a way that does not exist."""
    from gen_dist.job.problem import choose
    from gen_dist.job.spec import S3Spec
    from gen_dist.store import StoreError

    ways = ("auto", "path", "virtual")
    if addressing not in ways:
        raise StoreError(f"--addressing {addressing}: no such way; {choose(addressing, ways)}")
    return S3Spec.model_validate({"endpoint_url": endpoint_url, "region": region, "addressing": addressing})


def store_of(url: str, endpoint_url: str, region: str, addressing: str) -> Store:
    """The store of a URL from these options; a folder by its whole path, for workers elsewhere."""
    from pathlib import Path

    from gen_dist.store import open_store

    path = url if "://" in url or not url else str(Path(url).absolute())
    return open_store(path, s3_of(endpoint_url, region, addressing))
