"""Derived shards that cannot be used are refused before a sample of them is read."""

from __future__ import annotations

from typing import Any

import pytest

from gen_dist.data.derived import Derivation
from gen_dist.data.errors import DataError
from gen_dist.job.errors import JobError
from gen_dist.job.load import load_resolved


def test_a_description_that_nobody_wrote_is_refused() -> None:
    whole = Derivation({"latent.npy": {"encoder": "a"}}, "txt", {"a.tar": ("s", "o")}).to_bytes()
    assert Derivation.from_bytes(whole, where="x").shards == {"a.tar": ("s", "o")}
    for data in (b"", b"[]", b"{}", whole.replace(b'"a"', b'"b"'), whole.replace(b"derived 1", b"derived 9")):
        with pytest.raises(DataError, match="; run `gen-dist data derive` into another folder"):
            Derivation.from_bytes(data, where="x")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"flip": True}, r"data.flip=true: what is stored in data.derived cannot be mirrored; write flip = false"),
        ({"crop": "random"}, r"data.crop='random': what is stored .*; write crop = \"centre\""),
        ({"aspect_buckets": True}, r"stored in data.derived has one shape; write aspect_buckets = false"),
        ({"mix": [{"url": "/x"}]}, r"some sources have derived shards, and others none"),
    ],
)
def test_a_job_that_moves_images_is_refused(data: dict[str, Any], line: str) -> None:
    job = {
        "name": "small",
        "recipe": "latent_diffusion",
        "data": {"url": "/x", "derived": "/y", **data},
        "train": {"total_images": 64},
    }
    with pytest.raises(JobError, match=line):
        load_resolved(job)
