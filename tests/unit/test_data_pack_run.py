"""A pack gives the same bytes however often it is stopped, and refuses to mix two packs in one destination."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen_dist.cli.app import main
from gen_dist.data.errors import DataError
from gen_dist.data.pack import PackOptions, SourceSpec, pack
from gen_dist.data.pack.plan import cut, is_held_out
from gen_dist.data.pack.run import Progress
from gen_dist.job.spec import S3Spec
from gen_dist.store import StoreError, open_store
from tests.support.cli import PROGRAM
from tests.support.gateway import run_gateway
from tests.support.shards import noise, png

NUM_SAMPLES = 60
SHARD_MB = 1


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of 120 KB: seven shards of 1 MiB; two of the pictures are broken."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(NUM_SAMPLES):
        picture = png(noise(number, size_px=200, mode="RGB"))
        (folder / f"{number:03d}.png").write_bytes(picture if number not in (5, 41) else picture[:1000])
        (folder / f"{number:03d}.txt").write_text(f"picture {number}")
    return folder


def packed(source: Path, dest: Path | str, *, num_workers: int = 1, s3: S3Spec | None = None, **options: Any) -> Any:
    spec = SourceSpec(url=str(source), s3=s3)
    return pack(spec, str(dest), options=PackOptions(shard_mb=SHARD_MB, **options), num_workers=num_workers).facts


def tars(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tar"))}


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The shards of a pack that nobody disturbed."""
    folder = tmp_path_factory.mktemp("expected")
    facts = packed(source, folder)
    assert facts["packed"] == NUM_SAMPLES - 2
    assert facts["left_out"] == {"undecodable": 2}
    found = tars(folder)
    assert list(found) == [f"train-{n:06d}.tar" for n in range(len(found))]
    assert len(found) == 7
    return found


def test_a_copy_of_the_source_gives_the_same_bytes_in_processes_and_threads(
    source: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(source, tmp_path / "copy", copy_function=shutil.copyfile))  # other times
    packed(copy, tmp_path / "out", num_workers=2)
    assert tars(tmp_path / "out") == expected
    (tmp_path / "out" / "train-000003.tar").unlink()
    packed(copy, tmp_path / "out", num_workers=4)  # one shard missing: four threads make it
    assert tars(tmp_path / "out") == expected


def test_a_killed_pack_goes_on_with_what_is_missing(source: Path, expected: dict[str, str], tmp_path: Path) -> None:
    words = [str(PROGRAM), "data", "pack", str(source), "out", "--shard-mb", str(SHARD_MB), "--workers", "2"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    give_up_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < give_up_s and len(list(tmp_path.glob("out/pack/train-*"))) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    noted = {f"{path.stem}.tar" for path in (tmp_path / "out" / "pack").glob("train-*.json")}
    while list(tmp_path.glob("gen-dist-pack-*")) and time.monotonic() < give_up_s:
        time.sleep(0.02)
    assert not list(tmp_path.glob("gen-dist-pack-*")), "the processes of a killed pack go, and take their files along"
    assert packed(source, tmp_path / "out")["packed"] == NUM_SAMPLES - 2
    assert tars(tmp_path / "out") == expected
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert all(again[name] == kept[name] for name in noted), "a finished shard is not made again"


def test_a_finished_pack_tells_the_same_again_and_writes_no_shard(source: Path, tmp_path: Path) -> None:
    steps: list[Progress] = []
    spec, options = SourceSpec(url=str(source)), PackOptions(shard_mb=SHARD_MB)
    first = pack(spec, str(tmp_path / "out"), options=options, num_workers=1, tell=steps.append).facts
    assert (steps[0].num_samples, steps[0].num_shards) == (0, 0)
    assert steps[-1] == Progress(NUM_SAMPLES, NUM_SAMPLES, 7, 7)
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").glob("*.tar"))]
    steps.clear()
    assert pack(spec, str(tmp_path / "out"), options=options, num_workers=1, tell=steps.append).facts == first
    assert steps == [Progress(NUM_SAMPLES, NUM_SAMPLES, 7, 7)]
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").glob("*.tar"))] == times


def test_a_damaged_note_of_a_shard_makes_it_again(source: Path, expected: dict[str, str], tmp_path: Path) -> None:
    packed(source, tmp_path)
    (tmp_path / "pack" / "train-000001.json").write_text("{")
    (tmp_path / "train-000002.tar").write_bytes(b"short")
    packed(source, tmp_path)
    assert tars(tmp_path) == expected


def test_other_options_or_another_source_are_refused_with_what_changed(source: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for name in ("000.png", "000.txt", "001.png", "001.txt"):
        shutil.copy(source / name, few)
    packed(few, tmp_path / "out")
    with pytest.raises(DataError, match=r"size_px was 0, is 100; choose an empty destination"):
        packed(few, tmp_path / "out", size_px=100)
    (few / "001.txt").write_text("another caption")
    with pytest.raises(DataError, match=r"files, captions or columns of the source changed"):
        packed(few, tmp_path / "out")
    shutil.copy(source / "002.png", few)
    with pytest.raises(DataError, match=r"the source had 2 samples, has 3"):
        packed(few, tmp_path / "out")
    (tmp_path / "out" / "pack" / "plan.json").write_text("[]")
    with pytest.raises(DataError, match=r"plan\.json: the plan of the pack is damaged; delete"):
        packed(few, tmp_path / "out")


def test_shards_of_another_making_and_nested_folders_are_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "train-00000.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"already holds train-00000\.tar of another making; choose an empty"):
        packed(source, tmp_path)
    with pytest.raises(DataError, match="lies inside the source; write beside it"):
        packed(source, source / "out")
    with pytest.raises(DataError, match="lies inside the source; write beside it"):
        pack(SourceSpec(url="s3://b/p"), "s3://b/p/out", options=PackOptions(), num_workers=1)


def test_held_out_samples_are_chosen_by_their_keys_alone(source: Path, tmp_path: Path) -> None:
    facts = packed(source, tmp_path / "out", heldout=0.25)
    chosen = {f"{n:03d}" for n in range(NUM_SAMPLES) if is_held_out(f"{n:03d}", 0.25)}
    assert facts["heldout"] == len(chosen - {"005", "041"})
    index = {info.name for info in open_store(str(tmp_path / "out")).list("train-*.tar")}
    assert index
    assert not any(name.startswith("heldout") for name in index)


def test_a_share_is_held_out_nearly_exactly() -> None:
    assert sum(is_held_out(str(n), 0.1) for n in range(20_000)) == pytest.approx(2000, rel=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_shards_cover_every_sample_once_and_are_of_equal_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes_bytes = rng.integers(0, 200, rng.integers(1, 500)).tolist()
    shards = cut(sizes_bytes, 2000, prefix="train", first=7)
    assert shards[0].first == 7
    assert shards[-1].end == 7 + len(sizes_bytes)
    assert all(a.end == b.first for a, b in itertools.pairwise(shards))
    assert all(sum(sizes_bytes[s.first - 7 : s.end - 7]) <= 2200 for s in shards)


def test_a_bucket_gets_the_bytes_that_a_folder_gets(
    source: Path, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_gateway(tmp_path / "gateway") as gateway:
        for name, value in gateway.environment.items():
            monkeypatch.setenv(name, value)
        s3 = S3Spec(endpoint_url=gateway.endpoint_url, region=gateway.region, addressing="path")
        url = f"s3://{gateway.bucket}/packed"
        facts = packed(source, url, num_workers=2, s3=s3)
        store = open_store(url, s3)
        found = {i.name: hashlib.sha256(store.read(i.name)).hexdigest() for i in store.list("*.tar")}
        assert found == expected
        assert json.loads(store.read("pack.report.json")) == facts
        store.delete("train-000002.tar")
        packed(source, url, s3=s3)
        assert hashlib.sha256(store.read("train-000002.tar")).hexdigest() == expected["train-000002.tar"]
        spec = SourceSpec(url=url, s3=s3)  # and from there: tars of a bucket, packed again
        pack(spec, str(tmp_path / "back"), options=PackOptions(shard_mb=SHARD_MB), num_workers=1)
        assert len(tars(tmp_path / "back")) == 7
        missing = SourceSpec(url=f"s3://{gateway.bucket}/none", s3=s3)
        with pytest.raises((DataError, StoreError), match="no shard matches"):
            pack(missing, str(tmp_path / "none"), options=PackOptions(), num_workers=1)


def test_the_command_tells_what_it_left_out_and_ends_with_2_on_a_bad_source(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "pack", str(source), str(tmp_path), "--size", "32", "--format", "jpeg", "--workers", "1"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "packed      58 samples" in told.out
    assert "left out    2 undecodable: 005.png, 041.png" in told.out
    assert told.err.endswith("60/60 samples, 1/1 shards\n")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {"undecodable": 2}
    assert main(["data", "pack", "nowhere", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "nowhere does not exist; name a folder, a parquet file or s3://bucket/prefix\n")


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, gen_dist.cli.data.pack, gen_dist.cli.data.inspect; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("numpy", "torch", "PIL", "boto3", "pyarrow", "rich") if f"'{name}'" in loaded]


def test_ctrl_c_ends_a_pack_soon_and_says_how_to_go_on(source: Path, tmp_path: Path) -> None:
    words = [str(PROGRAM), "data", "pack", str(source), "out", "--shard-mb", str(SHARD_MB), "--size", "700"]
    words += ["--upscale", "--workers", "2"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    give_up_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < give_up_s and not list(tmp_path.glob("out/pack/train-*")):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 130
    assert told.splitlines()[-1] == "ended; the same command packs what is missing"
    assert not list(tmp_path.glob("gen-dist-pack-*"))
