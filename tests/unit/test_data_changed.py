"""A shard that was exchanged for one of the same size is noticed as it is read, and a plain copy is taken."""

from __future__ import annotations

import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gen_dist.data.block import read_block
from gen_dist.data.buffers import Rooms
from gen_dist.data.errors import DataError
from gen_dist.data.fields import sources
from gen_dist.data.index import find_index
from gen_dist.data.index.build import Broken, index_shards, tars, write_manifest
from gen_dist.data.index.index import Index, joined
from gen_dist.data.pack import PackOptions, SourceSpec, pack
from gen_dist.job.spec import DataSpec
from gen_dist.store import open_store
from tests.support.shards import FIELDS, write_shards


def indexed(folder: Path, *, look: bool = True) -> Path:
    write_shards(folder, num_samples=8, per_shard=4)
    index_again(folder, look=look)
    return folder


def index_again(folder: Path, *, look: bool = True) -> None:
    store = open_store(str(folder))
    answers = list(index_shards(store, tars(store, ["*.tar"]), look=look, again=False, workers=1))
    write_manifest(store, [answer for answer in answers if not isinstance(answer, Broken)])


def edit(path: Path, number: int = 2) -> None:
    """Another caption in one sample; every size and offset stays."""
    data = path.read_bytes()
    assert data.count(b"caption %d" % number) == 1
    path.write_bytes(data.replace(b"caption %d" % number, b"Caption %d" % number))


def opened(folder: Path) -> Index:
    return find_index(open_store(str(folder)), "*.tar")


def read_all(index: Index) -> int:
    found = sources(FIELDS, DataSpec(url="x"))
    return sum(read_block(index, number, found, Rooms(1 << 20)).num_bytes for number in range(len(index.blocks)))


def test_an_edited_shard_of_the_same_size_is_refused_until_it_is_indexed_again(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "in")
    assert opened(folder).unproved == [False, False]
    read_all(opened(folder))
    edit(folder / "train-00000.tar")
    index = pickle.loads(pickle.dumps(opened(folder)))
    assert index.unproved == [True, False]
    says = r"train-00000\.tar: sample '000002': other bytes than were indexed \(\.txt\); run `gen-dist data index .*in`"
    with pytest.raises(DataError, match=says):
        read_all(index)
    index_again(folder)
    assert opened(folder).unproved == [False, False]
    assert read_all(opened(folder))


def test_a_copy_with_other_times_is_read(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "in")
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").iterdir():
        os.utime(path, (1, 1))
    assert opened(tmp_path / "copy").unproved == [True, True]
    assert read_all(opened(tmp_path / "copy")) == read_all(opened(folder))


def test_an_edited_shard_is_noticed_in_a_mixture_and_among_derived_ones(tmp_path: Path) -> None:
    one, two = opened(indexed(tmp_path / "one")), indexed(tmp_path / "two")
    edit(two / "train-00000.tar")
    both = joined([one, opened(two)])
    assert both.unproved == [False, False, True, False]
    with pytest.raises(DataError, match=r"two/train-00000\.tar: sample '000002': other bytes"):
        read_all(both)
    with pytest.raises(DataError, match=r"two/train-00000\.tar"):
        _read_derived(one.with_derived(opened(two)))


def test_an_edited_shard_is_not_packed_again(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "in")
    for path in folder.glob("*.tar"):
        os.utime(path, (1, 1))
    assert pack(SourceSpec(url=str(folder)), str(tmp_path / "a"), options=PackOptions(), num_workers=1).facts["packed"]
    edit(folder / "train-00001.tar", 6)
    with pytest.raises(DataError, match=r"train-00001\.tar: sample '000006': other bytes than were indexed; run"):
        pack(SourceSpec(url=str(folder)), str(tmp_path / "b"), options=PackOptions(), num_workers=1)


def _read_derived(index: Index) -> None:
    found = [replace(source, is_derived=True) for source in sources(FIELDS, DataSpec(url="x"))]
    for number in range(len(index.blocks)):
        read_block(index, number, found, Rooms(1 << 20))


def test_without_checksums_nothing_is_held_against_them(tmp_path: Path) -> None:
    folder = indexed(tmp_path / "in", look=False)
    os.utime(folder / "train-00000.tar", (1, 1))
    assert opened(folder).unproved == [True, False]
    assert read_all(opened(folder))
