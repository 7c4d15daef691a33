"""Folders and embedded data sets as stores."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from gen_dist.job.shards import shards
from gen_dist.job.spec import S3Spec
from gen_dist.store import ObjectInfo, StoreError, open_store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name, size in (("b.tar", 3), ("a.tar", 10), ("deep/c.tar", 1), ("notes.txt", 2)):
        (tmp_path / name).write_bytes(bytes(range(size)))
    return tmp_path


@pytest.mark.parametrize("pattern", ["*.tar", "a*", "deep/*", "[ab].tar", "none", "*", "notes.txt"])
def test_a_store_lists_what_the_check_of_a_job_found(folder: Path, pattern: str) -> None:
    listed = {info.name: info.size_bytes for info in open_store(str(folder)).list(pattern)}
    assert listed == shards(str(folder), pattern)
    assert list(listed) == sorted(listed)


def test_a_range_is_half_open_and_ends_with_the_object(folder: Path) -> None:
    store = open_store(f"file://{folder}")
    assert store.read("a.tar") == bytes(range(10))
    assert store.read("a.tar", 2, 5) == bytes([2, 3, 4])
    assert store.read("a.tar", 8, 50) == bytes([8, 9])
    assert store.read("a.tar", 5, 5) == b""
    with store.open("a.tar") as file:
        file.seek(7)
        assert file.read() == bytes([7, 8, 9])


def test_what_is_not_there_is_named_with_a_remedy(folder: Path) -> None:
    with pytest.raises(StoreError, match=r"gone\.tar: No such file or directory; check that this worker sees"):
        open_store(str(folder)).read("gone.tar")
    with pytest.raises(StoreError, match=r"nowhere: the folder does not exist; write the folder"):
        open_store(str(folder / "nowhere")).list("*")
    with pytest.raises(StoreError, match=r"a\.tar: the folder is a file"):
        open_store(str(folder / "a.tar")).list("*")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "data.url is empty"),
        ("embedded://emojis", r"no such embedded data set; this package holds .*embedded://emoji"),
        ("gs://bucket/x", "unknown scheme 'gs'; write a folder, s3://bucket/prefix or embedded://name"),
        ("s3://", "no bucket; write s3://bucket/prefix"),
    ],
)
def test_an_address_that_leads_nowhere_is_refused_on_one_line(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says) as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_the_embedded_shards_are_listed() -> None:
    assert any(info.name.startswith("train-") for info in open_store("embedded://emoji").list("*.tar"))


@pytest.mark.parametrize("url", ["some/folder", "embedded://emoji", "s3://bucket/prefix"])
def test_stores_and_their_errors_survive_a_pickle(url: str) -> None:
    store = pickle.loads(pickle.dumps(open_store(url, S3Spec(region="eu-west-1"))))
    assert store.url == url
    error = pickle.loads(pickle.dumps(StoreError("what; remedy", url="u", num_attempts=3)))
    assert (str(error), error.url, error.num_attempts) == ("what; remedy", "u", 3)
    assert pickle.loads(pickle.dumps(ObjectInfo("a", 1, "v"))) == ObjectInfo("a", 1, "v")
