"""The worker groups of a run, one after the other: where each began, how far it came, how it ended. No Ray in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gen_dist.job.errors import GenDistError
from gen_dist.train.deaths import Death, Verdict, judge

NEAR_S = 1.0  # of training: deaths less than this apart are at the same place
MACHINE_GONE = "its machine is gone"
GONE = "its process was killed (a signal, or out of memory)"
_ECHO = re.compile(r"connection (closed|reset|refused)|peer|gloo|nccl|aborted|broken pipe", re.IGNORECASE)


class RollbackLimitError(GenDistError):
    """Rollbacks that lead to no new checkpoint."""


@dataclass(frozen=True)
class Worker:
    """One worker of a group."""

    rank: int
    node: str
    pid: int


@dataclass(frozen=True)
class Ended:
    """How the controller saw a worker end."""

    why: str
    by_itself: bool
    """An exception of its own, in place of a process or a machine that is gone."""
    node_lost: bool = False


@dataclass
class _Group:
    number: int
    workers: Sequence[Worker]
    entered_s: float
    heard_s: float
    base_images: int
    images: int
    began: tuple[int, float] | None = None
    """(images, when) at the end of its first step."""
    step_images: int = 0
    """Largest seen between two events."""
    errors: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Rank -> (line, log), in the order in which they came."""
    over: bool = False
    """It ended as it was meant to, or is buried."""
    warned: bool = False
    """Told that it will lose a machine: its death is that machine's."""
    mourned: bool = False
    """The controller has said how its workers ended, which it does once for each group."""

    @property
    def near_images(self) -> int:
        """What it learned from in about a second, by its whole time: what workers say comes in bursts."""
        first_images, first_s = self.began or (self.images, self.heard_s)
        speed = (self.images - first_images) / max(self.heard_s - first_s, NEAR_S)
        return round(NEAR_S * speed) + self.step_images


class Attempts:
    """What the hub remembers."""

    def __init__(self, *, max_failures: int, max_rollbacks: int, now_s: float) -> None:
        self._max_failures, self._max_rollbacks = max_failures, max_rollbacks
        self._group: _Group | None = None
        self._deaths: list[Death] = []
        self._ended_s = now_s  # of the group before, or the start of the run
        self._num_rollbacks = 0
        self._early: dict[int, tuple[str, str]] = {}  # errors of workers of a group that has not entered
        self.number = 0
        self.entered = 0
        """Number of the newest group that has entered; `number` may be a guess, for one that died before."""
        self.newest_images = 0
        self.ran_s = 0.0
        """Of the group that was buried last: from its start to its last sign of life."""
        self.skip_checkpoints = 0
        self.after_position: int | None = None

    @property
    def over(self) -> bool:
        """Whether no group is under way."""
        return self._group is None or self._group.over

    @property
    def num_nodes(self) -> int:
        """Machines of the group under way."""
        return len({worker.node for worker in self._group.workers}) if self._group else 0

    @property
    def images(self) -> int:
        """How far the group under way came."""
        return self._group.images if self._group else 0

    def enter(self, workers: Sequence[Worker], *, number: int, now_s: float) -> float:
        """A new group, with the number that it took. Returns how long there was none."""
        self.number = self.entered = number
        self._group = _Group(self.number, workers, now_s, now_s, self.newest_images, self.newest_images)
        self._early = {}
        return now_s - self._ended_s

    def hear(self, event: Mapping[str, Any], *, now_s: float) -> None:
        """Learn from what a worker says."""
        group, kind = self._group, event["kind"]
        if group is None or group.over:
            return
        images = int(event.get("images", group.images))
        if kind == "start":
            group.base_images = group.images = images
            self.newest_images = max(self.newest_images, images)
            self.skip_checkpoints, self.after_position = 0, None  # done
        elif kind == "checkpoint":
            if images > self.newest_images:
                self.newest_images, self._num_rollbacks = images, 0
        elif kind == "notice":
            group.warned = True
        elif kind == "end":
            self.close(now_s=now_s)
        if kind == "progress" and images > group.images:
            group.step_images = max(group.step_images, images - group.images)
            group.began = group.began or (images, now_s)
        group.images = max(group.images, images)
        group.heard_s = now_s

    def close(self, *, now_s: float) -> None:
        """The group under way ends as it was meant to."""
        if self._group is not None and not self._group.over:
            self._group.over = True
            self._ended_s, self.ran_s = now_s, now_s - self._group.entered_s

    def note_error(self, rank: int, why: str, log: str) -> None:
        """A worker says how it ends."""
        errors = self._early if self._group is None or self._group.over else self._group.errors
        errors.setdefault(rank, (why, log))

    def roll_back(self, checkpoints: int, after_position: int, why: str, *, now_s: float) -> GenDistError | None:
        """The group ends on purpose. Returns an error where that has led nowhere too often."""
        self._num_rollbacks += 1
        self.skip_checkpoints, self.after_position = checkpoints - 1, after_position  # 1 is the newest one
        self.close(now_s=now_s)
        if self._num_rollbacks <= self._max_rollbacks:
            return None
        return RollbackLimitError(
            f"{why}: {self._num_rollbacks} rollbacks without a new checkpoint between them; lower the learning rate"
            " under [model], or raise train.nonfinite.max_skips"
        )

    def bury(
        self, ended: Mapping[int, Ended], *, lost_nodes: frozenset[str], now_s: float
    ) -> tuple[Death | None, Verdict]:
        """End the group under way; (None, nothing) where there is none, or it ended as it was meant to."""
        group = self._group
        if ended and (group is None or group.mourned):  # it died before it had entered
            self.number += 1
            group = _Group(self.number, [], now_s, now_s, self.newest_images, self.newest_images, errors=self._early)
            self._group, self._early = group, {}
        elif group is not None and not group.over:
            self._ended_s = now_s
        if group is None:
            return None, Verdict()
        group.mourned = group.mourned or bool(ended)
        if group.over:
            return None, Verdict()
        group.over = True
        self.ran_s = group.heard_s - group.entered_s
        rank, why, log = first_to_die(ended, group.errors, ranks=[worker.rank for worker in group.workers])
        lost = [worker.rank for worker in group.workers if worker.node in lost_nodes]
        if lost:
            rank, why, log = lost[0], MACHINE_GONE, ""
        death = Death(
            attempt=group.number,
            base_images=group.base_images,
            images=group.images,
            newest_images=self.newest_images,
            near_images=group.near_images,
            rank=rank,
            why=why,
            log=log,
            node_lost=bool(lost) or group.warned or any(one.node_lost for one in ended.values()),
        )
        self._deaths.append(death)
        verdict = judge(self._deaths, max_failures=self._max_failures)
        self.skip_checkpoints = max(self.skip_checkpoints, verdict.skip_checkpoints)
        return death, verdict


def first_to_die(
    ended: Mapping[int, Ended], errors: Mapping[int, tuple[str, str]], *, ranks: Sequence[int]
) -> tuple[int | None, str, str]:
    """(rank, why, log). The others fail in their next collective call, with errors that only echo the first.

    A worker that was killed says nothing itself; so one that the controller misses comes before what others say, and
    where all that is said are echoes it is the one that says nothing.
    """
    for rank, (why, log) in errors.items():
        if why.startswith("hung"):
            return rank, why, log
    for rank, one in sorted(ended.items()):
        if not one.by_itself and rank not in errors:
            return rank, one.why, ""
    for rank, (why, log) in errors.items():
        if not _ECHO.search(why):
            return rank, why, log
    quiet = [rank for rank in ranks if rank not in errors and rank not in ended]
    if errors and len(quiet) == 1:
        return quiet[0], GONE, ""
    for rank, (why, log) in errors.items():
        return rank, why, log
    for rank, one in sorted(ended.items()):
        return rank, one.why, ""
    return None, "gone without a word", ""
