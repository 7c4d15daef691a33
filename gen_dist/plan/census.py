"""Which phases the steps of a run have, and how many steps each combination: `recipe.phases` asked along the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Clock, Recipe

WALKED_STEPS = 1 << 16  # a shorter run is asked at each of its steps
WINDOWS, WINDOW_STEPS = 1024, 64  # of a longer one: a thousandth of it is how well a change of regime is placed


@dataclass(frozen=True)
class StepKind:
    """Steps of a run with the same phases."""

    phases: tuple[str, ...]
    """In order."""
    num_steps: float
    """Of the whole run."""
    first: Clock
    """Where the first of them is."""
    batches: int
    """Global batches that such a step learns from."""


def step_kinds(recipe: Recipe, job: JobSpec) -> list[StepKind]:
    """Every kind of step of the run, those with the most phases first."""
    counts: Counter[tuple[str, ...]] = Counter()
    first: dict[tuple[str, ...], Clock] = {}
    batches: dict[tuple[str, ...], int] = {}
    steps = arithmetic.steps(job)
    for step in _asked_steps(steps):
        clock = Clock(images=step * job.train.global_batch_images, step=step)
        phases = recipe.phases(clock)
        names = tuple(phase.name for phase in phases)
        counts[names] += 1
        if names not in first:
            first[names], batches[names] = clock, 1 + sum(phase.fresh for phase in phases)
    # a step of several global batches brings the end nearer: the run has fewer of them
    taken = sum(count * batches[names] for names, count in counts.items())
    kinds = [StepKind(names, count * steps / taken, first[names], batches[names]) for names, count in counts.items()]
    return sorted(kinds, key=lambda kind: -len(kind.phases))


def _asked_steps(steps: int) -> Iterator[int]:
    if steps <= WALKED_STEPS:
        yield from range(steps)
        return
    for window in range(WINDOWS):
        start = (steps - WINDOW_STEPS) * window // (WINDOWS - 1)
        yield from range(start, start + WINDOW_STEPS)
