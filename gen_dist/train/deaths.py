"""What follows when a worker group died: go on, go back a checkpoint, or stop and say why. Pure; the hub acts on it.

A group that dies where the one before it died has met something that is always there: a sample that a decoder crashes
on, a batch that does not fit, a damaged checkpoint. Going on from the same checkpoint would meet it for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gen_dist.job.errors import GenDistError

LOOP_DEATHS = 3  # at one place: the second goes back a checkpoint, the third stops the run
MOST_WHY_LETTERS = 300


class CrashLoopError(GenDistError):
    """Worker groups that die at the same place whatever checkpoint they begin from."""


class TrainingFailedError(GenDistError):
    """A run that ended by an error of its workers."""


@dataclass(frozen=True)
class Death:
    """The end of one worker group that was not meant to end."""

    attempt: int
    base_images: int
    """Where it began."""
    images: int
    """How far it was seen to come."""
    newest_images: int
    """The newest checkpoint that the run had then."""
    near_images: int
    """What the group learned from in about a second: two deaths less than this apart are at the same place."""
    rank: int | None
    """The worker that died first, where that is known."""
    why: str
    log: str = ""
    """Where more is written down; empty where nothing is."""
    node_lost: bool = False
    """Its machine went away: nothing that the run did."""

    def line(self) -> str:
        """For a person: who and why."""
        who = "a worker" if self.rank is None else f"rank {self.rank}"
        return f"{who}: {self.why}"


@dataclass(frozen=True)
class Verdict:
    """What the next group does."""

    skip_checkpoints: int = 0
    """Newest checkpoints to pass over."""
    stop: GenDistError | None = None
    """The error that ends the run."""


def judge(deaths: Sequence[Death], *, max_failures: int) -> Verdict:
    """From all deaths of this run so far, the last one just now. Those of lost machines are passed over."""
    own = [death for death in deaths if not death.node_lost]
    if not own or deaths[-1].node_lost:
        return Verdict()
    last = own[-1]
    here = _trailing([_same_place(death, last) for death in own])
    if here >= LOOP_DEATHS:
        return Verdict(stop=_crash_loop(own[-here:]))
    fruitless = _trailing([death.newest_images == last.newest_images for death in own])
    if fruitless > max_failures:
        return Verdict(stop=_failed_too_often(last, fruitless))
    return Verdict(skip_checkpoints=here - 1)


def _trailing(flags: Sequence[bool]) -> int:
    """How many at the end are true."""
    count = 0
    for flag in reversed(flags):
        if not flag:
            break
        count += 1
    return count


def _same_place(one: Death, other: Death) -> bool:
    return abs(one.images - other.images) <= max(one.near_images, other.near_images)


def _crash_loop(deaths: Sequence[Death]) -> CrashLoopError:
    last = deaths[-1]
    bases = ", ".join(f"{images:,}" for images in sorted({death.base_images for death in deaths}))
    return CrashLoopError(
        f"after {last.images:,} images: {len(deaths)} worker groups in a row died here, begun at {bases} images;"
        f" {_short(last)}; mend the cause and run the same command again to go on from the newest checkpoint"
    )


def _failed_too_often(last: Death, count: int) -> TrainingFailedError:
    return TrainingFailedError(
        f"after {last.images:,} images: the workers failed {count} times in a row with no new checkpoint between;"
        f" {_short(last)}; mend the cause and run the same command again, or raise run.max_failures"
    )


def _short(death: Death) -> str:
    line = " ".join(death.line().split())
    line = line if len(line) <= MOST_WHY_LETTERS else f"{line[: MOST_WHY_LETTERS - 3]}..."
    return f"{line} (all of it in {death.log})" if death.log else line
