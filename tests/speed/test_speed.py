"""Benchmarks run, and say what they found so that scripts can read it. What they found is not for a test to judge."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.speed.sides import Round, Spent, alternate, compare
from tests.speed.stream.shards import Shards
from tests.speed.stream.task import Measured
from tests.speed.stream.turns import Side, check_same, per_sample, to_first_batch

ROOT = Path(__file__).resolve().parents[2]


def speed(*arguments: str, scratch: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.speed", *arguments],
        cwd=ROOT,
        env=os.environ | ({"TMPDIR": str(scratch)} if scratch else {}),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where benchmarks keep their shards: the second one finds those of the first."""
    return tmp_path_factory.mktemp("speed")


@pytest.mark.long
def test_a_benchmark_ends_with_one_line_of_json() -> None:
    done = speed("train-overhead", "--json", "--tiny", "--only", "dcgan")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["name"] == "train-overhead"
    assert found["unit"] == "ms_per_image"
    for figure in ("ratio", "ours_ms_per_image", "theirs_ms_per_image"):
        assert math.isfinite(found[figure])
        assert found[figure] > 0
        assert found[figure] == found["cases"]["dcgan"][figure], "of one case, that case is the worst"


def test_every_benchmark_is_listed() -> None:
    listed = [line.partition(": ")[0] for line in speed("--list").stdout.splitlines()]
    streams = ["stream-vs-peers", "stream-ceiling", "stream-latents", "stream-resume"]
    checkpoints = ["checkpoint-blocking", "checkpoint-total", "resume"]
    assert listed == ["train-overhead", *streams, *checkpoints, "recovery", "gigagan-vs-peer", "gigagan-compiled"]


@pytest.mark.parametrize(
    ("arguments", "unit"),
    [
        (["stream-vs-peers", "--only", "webdataset"], "ms_per_image"),
        pytest.param(["stream-resume", "--only", "undecoded"], "s", marks=pytest.mark.long),
    ],
)
def test_the_stream_is_measured_from_a_real_server(arguments: list[str], unit: str, scratch: Path) -> None:
    done = speed(*arguments, "--json", "--tiny", scratch=scratch)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratio"] == pytest.approx(found[f"ours_{unit}"] / found[f"theirs_{unit}"])
    assert list(found["cases"]) == arguments[-1:]


@pytest.mark.long
@pytest.mark.parametrize("name", ["checkpoint-blocking", "resume"])
def test_a_checkpoint_is_measured_against_deepspeeds_own(name: str, scratch: Path) -> None:
    done = speed(name, "--json", "--tiny", "--only", "zero-1", scratch=scratch)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratio"] == pytest.approx(found["ours_s"] / found["theirs_s"])
    assert list(found["cases"]) == ["zero-1"]


@pytest.mark.long  # a compiler at work
def test_gigagan_is_measured_against_its_compiled_self() -> None:
    done = speed("gigagan-compiled", "--json", "--tiny")
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout.splitlines()[-1])["cases"]
    assert list(cases) == ["draw", "generator", "penalty"]
    assert cases["generator"]["ratio"] > 0
    assert cases["penalty"] == {"refused": 1.0}


@pytest.mark.long  # an environment of the peer's own
def test_gigagan_is_measured_against_its_peer() -> None:
    done = speed("gigagan-vs-peer", "--json", "--tiny", "--only", "same-interval")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    case = found["cases"]["same-interval"]
    assert found["ratio"] == pytest.approx(case["ours_step_s"] / case["theirs_step_s"])
    assert case["ratio_of_memory"] == pytest.approx(case["ours_peak_gb"] / case["theirs_peak_gb"])
    for side in ("ours", "theirs"):
        plain_s, penalised_s = case[f"{side}_plain_s"], case[f"{side}_penalised_s"]
        assert case[f"{side}_step_s"] == pytest.approx((15 * plain_s + penalised_s) / 16)


def test_the_ratio_is_that_of_the_quickest_peer() -> None:
    quick, slow, ours = (Measured(wall_s, 1.0, 0.1, 64, 5.0) for wall_s in (2.0, 4.0, 1.0))
    found = per_sample({"quick": [[ours, quick]], "slow": [[ours, slow]]})
    assert found.ratio == found.cases["quick"]["ratio"] == 0.5
    assert found.cases["slow"]["theirs_samples_per_s"] == pytest.approx(16.0)


def test_the_first_batch_is_compared_by_the_shortest_wait_of_each_side() -> None:
    rounds = [[Measured(9.0, 1.0, first_s, 64, 5.0) for first_s in pair] for pair in ((0.5, 2.0), (0.25, 4.0))]
    assert to_first_batch({"theirs": rounds}).ratio == 0.125


def test_a_side_that_delivers_other_samples_is_refused() -> None:
    whole, other = Measured(1.0, 1.0, 0.1, 64, 5.0), Measured(1.0, 1.0, 0.1, 64, 6.0)
    check_same(Side("ours"), whole, Side("webdataset"), whole)
    with pytest.raises(ValueError, match="other samples than ours"):
        check_same(Side("ours"), whole, Side("webdataset"), other)


def test_the_shards_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for kind, size_bytes in (("jpeg", 16_000), ("latents", 126_000)):
        shards = Shards(kind, num_shards=2, shard_samples=8)
        for folder in ("first", "second"):
            shards.write(tmp_path / kind / folder)
        for name in shards.names:
            tar = (tmp_path / kind / "first" / name).read_bytes()
            assert tar == (tmp_path / kind / "second" / name).read_bytes()
            assert 0.5 < len(tar) / 8 / size_bytes < 1.5


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [(["train-overhaed"], "did you mean 'train-overhead'?"), (["train-overhead", "--only", "gan"], "dcgan")],
)
def test_what_does_not_exist_is_refused_with_what_does(arguments: list[str], remedy: str) -> None:
    done = speed(*arguments)
    assert done.returncode == 2
    assert remedy in done.stderr


def test_sides_take_turns_in_going_first_and_warm_up_once() -> None:
    calls: list[str] = []
    rounds = alternate(lambda: calls.append("ours"), lambda: calls.append("theirs"), num_steps=2, num_rounds=2)
    assert calls == ["theirs", "ours", "ours", "theirs"] * 3
    assert len(rounds) == 2


def test_other_work_on_the_machine_does_not_move_the_ratio() -> None:
    quick, slow = Spent(wall_s=1.0, cpu_s=1.0), Spent(wall_s=3.0, cpu_s=1.0)
    ours, spoiled = [Spent(wall_s=1.1, cpu_s=1.0), slow], Spent(wall_s=9.0, cpu_s=1.0)
    rounds = [
        Round(ours=[ours[0], spoiled], theirs=[quick, slow]),
        Round(ours=[spoiled, ours[1]], theirs=[quick, spoiled]),
    ]
    found = compare(rounds, images=100)
    assert found["ratio"] == pytest.approx(4.1 / 4.0)
    assert found["ratio_of_cpu"] == 1.0
    assert found["theirs_ms_per_image"] == pytest.approx(40.0)
