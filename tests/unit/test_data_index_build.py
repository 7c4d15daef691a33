"""`gen-dist data index`: what it writes, what it does not read again, and what it does with shards it cannot read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from webdataset.tariterators import base_plus_ext

from gen_dist.cli.app import main
from gen_dist.data.errors import DataError
from gen_dist.data.index import find_index
from gen_dist.data.index.build import Broken, index_shards, tars, write_manifest
from gen_dist.data.index.manifest import Manifest
from gen_dist.store import ConflictError, Store, StoreError, open_store
from tests.support import odd_tars
from tests.support.cli import PROGRAM
from tests.support.gateway import run_gateway
from tests.support.odd_tars import add, jpeg
from tests.support.shards import write_shards


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    code = main(["data", "index", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def do(store: Store, *, look: bool = True, again: bool = False, pattern: str = "*.tar") -> list[bool]:
    """Whether each shard was read."""
    done = []
    for answer in index_shards(store, tars(store, [pattern]), look=look, again=again, workers=1):
        assert not isinstance(answer, Broken), answer.line
        done.append(answer)
    write_manifest(store, done)
    return [answer.is_new for answer in done]


def test_an_index_that_was_written_is_the_index_of_the_headers(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=10, per_shard=4)
    store = open_store(str(tmp_path))
    fresh = find_index(store, "*.tar")
    assert not fresh.is_stored
    assert do(store) == [True] * 3
    kept = find_index(store, "*.tar")
    assert kept.is_stored
    assert (kept.digest, len(kept)) == (fresh.digest, len(fresh))
    assert [kept.sample(i) for i in range(10)] == [fresh.sample(i) for i in range(10)]
    assert kept.sizes_px(np.arange(10)).tolist() == [[16, 16]] * 10
    assert (kept.blocks.end_byte == fresh.blocks.end_byte).all()


def test_only_what_is_new_or_changed_or_not_looked_at_is_read_again(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=8, per_shard=4)
    store = open_store(str(tmp_path))
    assert do(store, look=False) == [True, True]
    assert do(store, look=False) == [False, False]
    assert do(store) == [True, True]
    assert do(store, look=False) == [False, False]  # it knows more than is asked for
    before = (tmp_path / "index.gdx").stat().st_mtime_ns
    assert do(store) == [False, False]
    assert (tmp_path / "index.gdx").stat().st_mtime_ns == before
    write_shards(tmp_path / "more", num_samples=3, per_shard=4, stem="new")
    (tmp_path / "more" / "new-00000.tar").rename(tmp_path / "new.tar")
    os.utime(tmp_path / "train-00001.tar")
    (tmp_path / "train-00000.tar.gdx").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"new\.tar: not in the index; run `gen-dist data index"):
        find_index(store, "*.tar")
    assert do(store) == [True, True, True]
    assert do(store, again=True) == [True] * 3
    assert len(find_index(store, "*.tar")) == 11


def test_patterns_add_up_in_one_manifest(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=4, per_shard=4, stem="train")
    write_shards(tmp_path, num_samples=3, per_shard=4, stem="heldout")
    store = open_store(str(tmp_path))
    whole = find_index(store, "*.tar").digest
    do(store, pattern="train-*")
    do(store, pattern="heldout-*")  # matches the tables too, which are no shards
    assert find_index(store, "*.tar").digest == whole
    assert len(find_index(store, "train-*.tar")) == 4
    (tmp_path / "train-00000.tar").unlink()
    do(store, pattern="heldout-*")
    manifest = Manifest.from_bytes((tmp_path / "index.gdx").read_bytes(), where="x")
    assert [shard.name for shard in manifest.shards] == ["heldout-00000.tar"]


def test_a_broken_shard_does_not_keep_the_others_from_being_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path, num_samples=8, per_shard=4)
    path = tmp_path / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:3000])
    code, facts = run(capsys, str(tmp_path))
    assert (code, facts["num_read"], facts["manifest"]) == (1, 1, None)
    assert [broken["shard"] for broken in facts["broken"]] == ["train-00000.tar"]  # type: ignore[union-attr]
    assert not (tmp_path / "index.gdx").exists()
    code, facts = run(capsys, str(tmp_path), "--skip-broken")
    assert (code, facts["num_read"], facts["num_samples"]) == (0, 0, 4)
    assert len(find_index(open_store(str(tmp_path)), "*.tar")) == 4
    write_shards(tmp_path, num_samples=8, per_shard=4)
    code, facts = run(capsys, str(tmp_path))
    assert (code, facts["num_samples"]) == (0, 8)
    assert len(find_index(open_store(str(tmp_path)), "*.tar")) == 8


def test_left_out_samples_are_named_to_the_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd_tars.write(tmp_path / "x.tar", odd_tars.bad_images)
    assert main(["data", "index", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "left out   x.tar: bad-empty: .jpg has no bytes\n" in out
    assert "indexed    6 samples of 1 shards" in out
    assert main(["data", "index", str(tmp_path), "--pattern", "*.zip"]) == 2
    assert "no shard matches '*.zip'" in capsys.readouterr().err
    assert main(["data", "index", str(tmp_path), "--addressing", "paht"]) == 2
    assert "did you mean 'path'?" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["train-00001.tar", "train-00000.tar"])
def test_two_who_write_a_manifest_at_once_put_theirs_together(tmp_path: Path, other: str) -> None:
    write_shards(tmp_path, num_samples=8, per_shard=4)
    tried = []

    class Slow:
        """The store, in which somebody else is done between reading and writing."""

        def __getattr__(self, name: str) -> object:
            return getattr(open_store(str(tmp_path)), name)

        def write(self, name: str, data: bytes, *, if_version: str | None = None) -> object:
            if name == "index.gdx":
                tried.append(if_version)
                do(open_store(str(tmp_path)), pattern=other)
            return open_store(str(tmp_path)).write(name, data, if_version=if_version)

    do(cast(Store, Slow()), pattern="train-00000.tar")
    assert len(find_index(open_store(str(tmp_path)), other)) == 4
    assert len(find_index(open_store(str(tmp_path)), "train-00000.tar")) == 4
    assert len(tried) == (1 if other == "train-00000.tar" else 2)  # equal bytes need no second write


def test_a_manifest_that_others_write_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_dist.data.index.build.PAUSE_S", 0.0)
    write_shards(tmp_path, num_samples=4, per_shard=4)

    class Busy:
        def __getattr__(self, name: str) -> object:
            return getattr(open_store(str(tmp_path)), name)

        def write(self, name: str, data: bytes, *, if_version: str | None = None) -> object:
            if name == "index.gdx":
                raise ConflictError("not written, another process writes it: read it again, then decide")
            return open_store(str(tmp_path)).write(name, data, if_version=if_version)

    with pytest.raises(StoreError, match="another process writes it"):
        do(cast(Store, Busy()))


def test_ray_tasks_write_what_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_dist.data.index.build.SMALL_BYTES", 0)
    for name in ("one", "two"):
        write_shards(tmp_path / name, num_samples=10, per_shard=3)
    do(open_store(str(tmp_path / "one")))
    (tmp_path / "two" / "train-00003.tar").write_bytes(b"no tar")
    store = open_store(str(tmp_path / "two"))
    answers = list(index_shards(store, tars(store, ["*.tar"]), look=True, again=False, workers=2))
    assert [answer.shard.name for answer in answers if isinstance(answer, Broken)] == ["train-00003.tar"]
    done = [answer for answer in answers if not isinstance(answer, Broken)]
    write_manifest(store, done)
    two = find_index(store, "train-0000[012].tar")
    assert two.digest == find_index(open_store(str(tmp_path / "one")), "train-0000[012].tar").digest


def test_a_killed_index_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [jpeg(number, size_px=400) for number in range(3)]
    for shard in range(12):
        with tarfile.open(tmp_path / f"{shard:02d}.tar", "w") as tar:
            for number in range(150):
                add(tar, f"{number}.jpg", images[number % 3])
    process = subprocess.Popen([PROGRAM, "data", "index", str(tmp_path), "--workers", "1"], stdout=subprocess.DEVNULL)
    give_up_s = time.monotonic() + 60
    while not (tmp_path / "01.tar.gdx").exists() and time.monotonic() < give_up_s and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_there = len(list(tmp_path.glob("*.tar.gdx")))
    assert 2 <= num_there < 12
    assert not (tmp_path / "index.gdx").exists()
    code, facts = run(capsys, str(tmp_path), "--workers", "1")
    assert (code, facts["num_read"], facts["num_samples"]) == (0, 12 - num_there, 12 * 150)


def write_idx(path: Path) -> list[int]:
    """As Energon writes it: the first header of each sample, and the end."""
    found, last = [], None
    with tarfile.open(path) as tar:
        for member in tar:
            key, _ = base_plus_ext(member.name)
            if member.isreg() and key not in (None, last) and not key.startswith("__"):
                found.append(member.offset)
                last = key
        found.append(tar.offset)
    path.with_name(path.name + ".idx").write_bytes(np.array(found, "<u8").tobytes())
    return found


@pytest.mark.parametrize("shape", [odd_tars.nested, odd_tars.long_names, odd_tars.links_and_folders])
def test_the_idx_of_energon_gives_the_same_table(
    tmp_path: Path, shape: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen_dist.data.index.energon.MIN_RANGE_BYTES", 1)
    odd_tars.write(tmp_path / "x.tar", shape)  # type: ignore[arg-type]
    store = open_store(str(tmp_path))
    fresh = find_index(store, "*.tar")
    write_idx(tmp_path / "x.tar")
    do(store, look=False)
    assert find_index(store, "*.tar").digest == fresh.digest


def test_an_idx_of_another_shard_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_dist.data.index.energon.MIN_RANGE_BYTES", 1)
    odd_tars.write(tmp_path / "x.tar", odd_tars.long_names)
    starts = write_idx(tmp_path / "x.tar")
    store, path = open_store(str(tmp_path)), tmp_path / "x.tar.idx"
    with tarfile.open(tmp_path / "x.tar") as tar:
        inner = tar.getmembers()[2].offset_data - 512  # behind the extended header of the second sample
    wrong = [starts[1:], starts[:-1], starts[::-1], [], [*starts[:-1], 10**9], [0, inner, starts[2], starts[3]]]
    wrong += [[0, starts[1], starts[1] + 512, *starts[2:]], [start + 512 for start in starts], [0, starts[-1]]]
    for numbers in wrong:
        path.write_bytes(np.array(numbers, "<u8").tobytes())
        (answer,) = index_shards(store, tars(store, ["*.tar"]), look=False, again=True, workers=1)
        assert isinstance(answer, Broken), numbers
        assert "x.tar.idx: not the index of this shard (" in answer.line
        assert answer.line.endswith("; delete it, or let Energon write it again")
    path.write_bytes(b"odd")
    (answer,) = index_shards(store, tars(store, ["*.tar"]), look=False, again=True, workers=1)
    assert isinstance(answer, Broken)


def test_a_bucket_is_indexed_as_a_folder_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "shards"
    write_shards(folder, num_samples=10, per_shard=4)
    with run_gateway(tmp_path / "gateway") as gateway:
        for name, value in gateway.environment.items():
            monkeypatch.setenv(name, value)
        gateway.upload(folder, prefix="set")
        words = (f"s3://{gateway.bucket}/set", "--endpoint-url", gateway.endpoint_url, "--addressing", "path")
        code, facts = run(capsys, *words)
        assert (code, facts["num_read"], facts["num_samples"]) == (0, 3, 10)
        code, facts = run(capsys, *words)
        assert (code, facts["num_read"]) == (0, 0)
        assert main(["data", "verify", *words]) == 0
