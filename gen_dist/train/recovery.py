"""Where a worker group goes on: at the newest checkpoint that all workers find whole, or the one before it.

Nothing that a cluster manager remembers is asked. What counts is what is committed in the store of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gen_dist.checkpoint import Checkpoint, CheckpointError, begin_attempt, candidates, note_base, open_checkpoint
from gen_dist.job.errors import GenDistError
from gen_dist.store import Store
from gen_dist.train.collective import Team
from gen_dist.train.report import Report

T = TypeVar("T")


def begin(store: Store, *, team: Team, report: Report) -> int:
    """The number of this worker group: from now on, no earlier one commits anything. Collective."""
    return led(team, lambda: begin_attempt(store, on_event=warn_with(report)))


def recover(store: Store, attempt: int, *, team: Team, report: Report, skip: int = 0) -> Checkpoint | None:
    """The checkpoint to go on from, verified by all workers, and noted as such; None in a fresh run. Collective.

    `skip`: newest checkpoints to leave out, where the run keeps dying after them; the oldest one is never left out.
    Raises: CheckpointError where there are checkpoints and none is whole: a run never starts over by itself.
    """
    names = led(team, lambda: candidates(store))
    damage = []
    for name in names[min(skip, len(names) - 1) :] if names else []:
        found, problem = _verified(store, name, team)
        seen = sorted({one for one in team.gather(problem) if one})
        if found is not None and not seen:
            led(team, lambda base=name: note_base(store, attempt, base))  # type: ignore[misc]
            return found
        damage.append(f"{seen[0]}" + (f" (and {len(seen) - 1} more files)" if seen[1:] else ""))
        report("warning", text=f"{name} is left out: {damage[-1]}")
    if damage:
        raise CheckpointError(
            f"{store.url}: none of {len(damage)} checkpoints is whole: {damage[0]}; put the files back, or start over"
            " with `gen-dist train --fresh`"
        )
    led(team, lambda: note_base(store, attempt, None))
    return None


def _verified(store: Store, name: str, team: Team) -> tuple[Checkpoint | None, str]:
    """The checkpoint, and what is wrong with this worker's share of its files."""
    try:
        found = open_checkpoint(store, name)
        found.verify(team.rank, team.size)
    except CheckpointError as error:
        return None, str(error)
    return found, ""


def led(team: Team, act: Callable[[], T]) -> T:
    """What the leading worker's `act` gives, on every worker; its error too, so that none waits for it. Collective."""
    outcome: tuple[T | None, GenDistError | None] = (None, None)
    if team.leads:
        try:
            outcome = (act(), None)
        except GenDistError as error:
            outcome = (None, error)
    value, failure = team.gather(outcome)[0]
    if failure is not None:
        raise failure
    return value  # type: ignore[no-any-return]


def warn_with(report: Report) -> Callable[..., None]:
    """A listener for events of checkpoints that says what a person should know."""

    def listen(kind: str, **facts: object) -> None:
        if "warning" in facts:
            report("warning", text=facts["warning"], about=kind)

    return listen
