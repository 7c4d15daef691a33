"""Benchmarks run, and say what they found so that scripts can read it. What they found is not for a test to judge."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tests.speed.sides import Round, Spent, alternate, compare

ROOT = Path(__file__).resolve().parents[2]


def speed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.speed", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


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
    assert "train-overhead: " in speed("--list").stdout


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
