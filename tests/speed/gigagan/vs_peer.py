"""gigagan-vs-peer: time of a D + G step over that of gigagan-pytorch 0.3.0, at the same channels; and peak memory.

32 px, 8 images, fp32, two threads. At most 0.5 of its time and 0.6 of its memory are wanted. `own-intervals` has the
penalty as each does by default, every 16 steps here and every 4 there; `same-interval` every 16 in both. Both start
the image at 4 px from other widths, ours from fewer; in `same-start` theirs starts from ours.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.speed.gigagan.peers import PEERS
from tests.speed.gigagan.task import Measured, Task
from tests.speed.sides import Result

ROOT = Path(__file__).resolve().parents[3]
NUM_ROUNDS = 3
OURS_EVERY, THEIRS_EVERY = 16, 4
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Case:
    """One comparison."""

    theirs_every: int
    task: Task = field(default_factory=Task)


NARROW = Task(start_channels=Task().generator_channels * 8)
CASES = {
    "own-intervals": Case(THEIRS_EVERY),
    "same-interval": Case(OURS_EVERY),
    "same-start": Case(OURS_EVERY, NARROW),
}
TINY = Task(batch_images=4, generator_channels=8, discriminator_channels=8, start_channels=64, num_steps=1)


def run(*, only: str, tiny: bool) -> Result:
    """Measure the cases whose name begins with `only`; the ratio is that of the worst."""
    cases = {name: case for name, case in CASES.items() if name.startswith(only)}
    if not cases:
        raise ValueError(f"--only {only}: no such case; write the start of one of {', '.join(CASES)}")
    tasks = {case.task: TINY if tiny else case.task for case in cases.values()}
    turns = {task: _take_turns(used, num_rounds=1 if tiny else NUM_ROUNDS) for task, used in tasks.items()}
    found = {name: _compare(case, turns[case.task]) for name, case in cases.items()}
    worst = max(found.values(), key=lambda figures: figures["ratio"])
    return Result(worst["ratio"], worst["ours_step_s"], worst["theirs_step_s"], unit="step_s", cases=found)


def _take_turns(task: Task, *, num_rounds: int) -> list[tuple[Measured, Measured]]:
    """(ours, theirs) of each round, each in a process of its own; each goes first every other time."""
    rounds = []
    for number in range(num_rounds):
        names = ("ours", "theirs") if number % 2 else ("theirs", "ours")
        found = {name: _measure(name, task) for name in names}
        rounds.append((found["ours"], found["theirs"]))
    return rounds


def _measure(side: str, task: Task) -> Measured:
    python = Path(sys.executable) if side == "ours" else PEERS.python()
    done = subprocess.run(
        [python, "-m", f"tests.speed.gigagan.{side}", json.dumps(asdict(task))],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": str(task.num_threads)},
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        raise ValueError(f"{side} failed:\n{done.stderr[-4000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def _compare(case: Case, rounds: list[tuple[Measured, Measured]]) -> dict[str, float]:
    """Of each kind of step the shortest over all rounds counts: other work on the machine can only add to it."""
    sides = []
    for number in (0, 1):
        own = [pair[number] for pair in rounds]
        plain_s, penalised_s = min(one.plain_s for one in own), min(one.penalised_s for one in own)
        peak_bytes = max(one.peak_bytes for one in own)
        sides.append(Measured(plain_s, penalised_s, peak_bytes, own[0].parameters))
    ours, theirs = sides
    ours_s, theirs_s = ours.step_s(penalty_every=OURS_EVERY), theirs.step_s(penalty_every=case.theirs_every)
    each = [
        one.step_s(penalty_every=OURS_EVERY) / other.step_s(penalty_every=case.theirs_every) for one, other in rounds
    ]
    figures = {
        "ratio": ours_s / theirs_s,
        "ratio_of_memory": ours.peak_bytes / theirs.peak_bytes,
        "median_of_rounds": statistics.median(each),
        "ours_step_s": ours_s,
        "theirs_step_s": theirs_s,
        "num_rounds": len(rounds),
    }
    for name, side in (("ours", ours), ("theirs", theirs)):
        figures[f"{name}_plain_s"], figures[f"{name}_penalised_s"] = side.plain_s, side.penalised_s
        figures[f"{name}_peak_gb"] = side.peak_bytes / 1e9
        for network, count in zip(("generator", "discriminator"), side.parameters, strict=True):
            figures[f"{name}_{network}_millions"] = count / 1e6
    return figures
