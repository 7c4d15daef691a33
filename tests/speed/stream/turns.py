"""Readers timed in turns, each in a process of its own, and what their times say."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from tests.speed.sides import Result, Round, Spent, compare
from tests.speed.stream.bed import ROOT, Bed
from tests.speed.stream.shards import Shards
from tests.speed.stream.task import Measured, Task

TIMEOUT_S = 600.0
TINY_SHARDS, TINY_SAMPLES = 2, 320  # each of two workers has a whole batch after 80 %


@dataclass(frozen=True)
class Side:
    """A reader at its settings."""

    reader: str
    num_workers: int = 0
    part: Mapping[str, int | str] = field(default_factory=dict)
    """Of a task: first_sample, drop, num_batches."""


def sizes(shards: Shards, *, tiny: bool) -> Shards:
    """The shards, or few and small ones."""
    return Shards(shards.kind, TINY_SHARDS, TINY_SAMPLES) if tiny else shards


def chosen(cases: Mapping[str, Side], only: str) -> dict[str, Side]:
    """Those whose name begins with `only`. Raises: ValueError where none does."""
    found = {name: side for name, side in cases.items() if name.startswith(only)}
    if not found:
        raise ValueError(f"--only {only}: no such case; write the start of one of {', '.join(cases)}")
    return found


def take_turns(bed: Bed, ours: Side, theirs: Mapping[str, Side], *, num_rounds: int) -> dict[str, list[list[Measured]]]:
    """By case: rounds of [ours, theirs]. Ours runs once a round for all cases, and everybody comes first in turn.

    Raises: ValueError where two sides of a case did not deliver the same samples.
    """
    sides = {"": ours, **theirs}
    names = list(sides)
    rounds: list[dict[str, Measured]] = []
    for number in range(num_rounds):
        shift = number % len(names)
        rounds.append({name: read(bed, sides[name]) for name in names[shift:] + names[:shift]})
    for found in rounds:
        for name, side in theirs.items():
            check_same(ours, found[""], side, found[name])
    return {name: [[found[""], found[name]] for found in rounds] for name in theirs}


def check_same(ours: Side, first: Measured, side: Side, second: Measured) -> None:
    """That two whole epochs were the same samples; parts begin elsewhere in each reader's order. Raises: ValueError."""
    if not {"first_sample", "num_batches"} & set(side.part) and (first.num_samples, first.witness) != (
        second.num_samples,
        second.witness,
    ):
        raise ValueError(f"{side.reader} delivered other samples than {ours.reader}: {second}, {first}")


def read(bed: Bed, side: Side) -> Measured:
    """In a new process with an empty folder of its own. Raises: ValueError with what it said where it fails."""
    with tempfile.TemporaryDirectory(prefix="gen-dist-speed-") as local:
        task = Task(
            reader=side.reader,
            kind=bed.shards.kind,
            endpoint_url=bed.gateway.endpoint_url,
            url=bed.url(side.reader),
            shards=bed.shards.names,
            num_samples=bed.shards.num_samples,
            local=local,
            num_workers=side.num_workers,
            **side.part,  # type: ignore[arg-type]
        )
        done = subprocess.run(
            [bed.python(side.reader), "-m", "tests.speed.stream.epoch", json.dumps(asdict(task))],
            cwd=ROOT,
            env=bed.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    if done.returncode:
        raise ValueError(f"{side.reader} failed:\n{done.stderr[-4000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def per_sample(turns: Mapping[str, Sequence[Sequence[Measured]]], *, of: Literal["wall", "cpu"] = "wall") -> Result:
    """The time of an epoch: by case, what `compare` gives, and both rates. The ratio is that of the worst case.

    `of` "cpu": the ratio is of the processor time of the processes that read.
    """
    cases = {}
    for name, rounds in turns.items():
        num_samples = rounds[0][0].num_samples
        pairs = [Round(*([Spent(one.wall_s, one.cpu_s)] for one in pair)) for pair in rounds]
        figures = compare(pairs, images=num_samples)
        if of == "cpu":
            figures |= {"ratio": figures.pop("ratio_of_cpu"), "ratio_of_wall": figures["ratio"]}
        cases[name] = figures | {
            f"{side}_{key}": value
            for at, side in enumerate(("ours", "theirs"))
            for key, value in {
                "samples_per_s": 1e3 / figures[f"{side}_ms_per_image"],
                "first_batch_s": min(pair[at].first_s for pair in rounds),
                "cpu_us_per_sample": 1e6 / num_samples * min(pair[at].cpu_s for pair in rounds),
            }.items()
        }
    worst = max(cases.values(), key=lambda case: case["ratio"])
    if of == "cpu":
        ours, theirs = (worst[f"{side}_cpu_us_per_sample"] for side in ("ours", "theirs"))
        return Result(worst["ratio"], ours, theirs, unit="cpu_us_per_sample", cases=cases)
    return Result(
        worst["ratio"], worst["ours_ms_per_image"], worst["theirs_ms_per_image"], unit="ms_per_image", cases=cases
    )


def to_first_batch(turns: Mapping[str, Sequence[Sequence[Measured]]]) -> Result:
    """The time until the first batch: by case, the shortest of each side. The ratio is that of the worst case."""
    cases = {}
    for name, rounds in turns.items():
        ours_s, theirs_s = (min(pair[at].first_s for pair in rounds) for at in (0, 1))
        each = [ours.first_s / theirs.first_s for ours, theirs in rounds]
        cases[name] = {
            "ratio": ours_s / theirs_s,
            "lowest_round": min(each),
            "highest_round": max(each),
            "ours_s": ours_s,
            "theirs_s": theirs_s,
            "num_rounds": len(rounds),
        }
    worst = max(cases.values(), key=lambda case: case["ratio"])
    return Result(worst["ratio"], worst["ours_s"], worst["theirs_s"], unit="s", cases=cases)
