"""Two sides timed in turns, and what their times say: pure of torch, so that any benchmark can use it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spent:
    """Time of one step."""

    wall_s: float
    cpu_s: float
    """Of all threads of this process."""


@dataclass(frozen=True)
class Round:
    """As many steps of each side, in turns."""

    ours: Sequence[Spent]
    theirs: Sequence[Spent]


@dataclass(frozen=True)
class Result:
    """What a benchmark found."""

    ratio: float
    """ours / theirs: lower is better."""
    ours: float
    theirs: float
    unit: str
    cases: Mapping[str, Mapping[str, float]]
    """What `compare` gave, by case."""


def timed(step: Callable[[], object]) -> Spent:
    """Do it."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    step()
    return Spent(wall_s=time.perf_counter() - wall_s, cpu_s=time.process_time() - cpu_s)


def alternate(
    ours: Callable[[], object], theirs: Callable[[], object], *, num_steps: int, num_rounds: int
) -> list[Round]:
    """Rounds of `num_steps` steps of each side, step by step in turns, so that other work on the machine meets both.

    Each side goes first every other time. One more round before them is not kept: both sides warm up in it.
    """
    rounds = []
    for _ in range(num_rounds + 1):
        own: list[Spent] = []
        other: list[Spent] = []
        for number in range(num_steps):
            turns = [(own, ours), (other, theirs)]
            for spent, step in turns if number % 2 else reversed(turns):
                spent.append(timed(step))
        rounds.append(Round(own, other))
    return rounds[1:]


def compare(rounds: Sequence[Round], *, images: int) -> dict[str, float]:
    """`ratio` and what stands beside it, for rounds of `images` images a side.

    What the steps of a round do may differ, but step n does the same in every round. Its time is the shortest over the
    rounds, since other work on the machine can only add to it; the steps' times add up to the time of a round.
    """
    ours = [one.ours for one in rounds]
    theirs = [one.theirs for one in rounds]
    ours_s, theirs_s = _shortest(ours, lambda spent: spent.wall_s), _shortest(theirs, lambda spent: spent.wall_s)
    whole = [sum(s.wall_s for s in one.ours) / sum(s.wall_s for s in one.theirs) for one in rounds]
    return {
        "ratio": ours_s / theirs_s,
        "ratio_of_cpu": _shortest(ours, lambda spent: spent.cpu_s) / _shortest(theirs, lambda spent: spent.cpu_s),
        "median_of_rounds": statistics.median(whole),
        "lowest_round": min(whole),
        "highest_round": max(whole),
        "ours_ms_per_image": 1e3 * ours_s / images,
        "theirs_ms_per_image": 1e3 * theirs_s / images,
        "num_rounds": len(rounds),
    }


def _shortest(rounds: Sequence[Sequence[Spent]], of: Callable[[Spent], float]) -> float:
    return sum(min(map(of, same_step)) for same_step in zip(*rounds, strict=True))
