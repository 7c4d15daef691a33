"""Logs of runs that die again and again, as workers write them, and what their one curve has to be."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gen_dist.registry.wal import WAL, Event, WalWriter

STEP_IMAGES = 64
KEYS = ("loss/a", "loss/b")
JOB = {"name": "demo", "recipe": "r", "data": {"url": "embedded://emoji"}, "tracking": {"experiment": "gen-dist"}}


@dataclass
class CrashingRun:
    """A run as it happens: its workers write to the log of `folder`, and the truth is noted beside it.

    The clock that its events carry jumps by up to an hour whenever workers start: no order may come from it.
    """

    folder: Path
    seed: int = 0
    numbered: bool = True
    """Whether workers know the number of their attempt."""
    steps_between_checkpoints: int = 5
    at_s: float = 1_700_000_000.0
    images: int = 0
    saved_images: int = 0
    num_attempts: int = 0
    curve: list[tuple[int, float, int]] = field(default_factory=list)
    """(images, value, Unix time in ms) of each point that a checkpoint covers."""
    attempts: list[list[int]] = field(default_factory=list)
    """Images of every point that each attempt said."""
    _recent: list[tuple[int, float, int]] = field(default_factory=list)
    _writer: WalWriter | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def describe(self) -> None:
        """What the driver says before there are workers."""
        driver = WalWriter(self.folder / WAL)
        driver.append({"kind": "job", "at_s": self._now(), "job": JOB, "data_digest": "d" * 64, "versions": {}})
        driver.close()

    def end(self, status: str = "FINISHED") -> None:
        """What the driver says when there are no more workers."""
        driver = WalWriter(self.folder / WAL)
        driver.append({"kind": "status", "at_s": self._now(), "status": status})
        driver.close()

    def begin(self) -> None:
        """Workers start at the newest checkpoint."""
        self.num_attempts += 1
        self.at_s += self._random.uniform(-3600.0, 3600.0)
        self.images, self._recent = self.saved_images, []
        self.attempts.append([])
        self._writer = WalWriter(self.folder / WAL)
        self._say("start", images=self.images, workers=2, resumed_from="")

    def step(self) -> None:
        """One step and its point."""
        self.images += STEP_IMAGES
        value = self._random.random()
        event = self._say("metrics", images=self.images, step=1, metrics=dict.fromkeys(KEYS, value))
        self._recent.append((self.images, value, int(event["at_s"] * 1000)))
        self.attempts[-1].append(self.images)

    def save(self, *, images: int, told: bool = True) -> None:
        """A checkpoint of `images` is committed by now; not `told`: its writer dies before it can say so."""
        self.saved_images = images
        self.curve += [point for point in self._recent if point[0] <= images]
        self._recent = [point for point in self._recent if point[0] > images]
        if told:
            self._say("checkpoint", images=images, path=f"images-{images:012d}")

    def die(self, *, torn: bool = False) -> None:
        """The workers are gone; `torn`: in the middle of a line."""
        assert self._writer is not None
        path = self.folder / WAL / self._writer.name
        self._writer.close()
        self._writer = None
        if torn:
            with path.open("ab") as file:
                file.write(b'{"kind":"metrics","at_s":17000')

    def live(self, num_steps: int) -> None:
        """Learn, with checkpoints that are committed two steps after the one that they are of."""
        since = self.saved_images // STEP_IMAGES
        due: list[int] = []
        for _ in range(num_steps):
            self.step()
            if due and self.images >= due[0] + 2 * STEP_IMAGES:
                self.save(images=due.pop(0))
            if (self.images // STEP_IMAGES - since) % self.steps_between_checkpoints == 0:
                due.append(self.images)

    def crash(self, num_kills: int) -> None:
        """Start and die at random steps; the last attempt ends as it should."""
        for _ in range(num_kills):
            self.begin()
            self.live(self._random.randint(0, 4 * self.steps_between_checkpoints))
            if self.images > self.saved_images and self._random.random() < 0.2:
                self.save(images=self.images, told=False)
            self.die(torn=self._random.random() < 0.3)
        self.begin()
        self.live(3 * self.steps_between_checkpoints)
        self.save(images=self.images)
        self._say("end", images=self.images)
        self.die()

    def _say(self, kind: str, **facts: Any) -> Event:
        assert self._writer is not None
        event = {"kind": kind, "at_s": self._now(), **facts}
        if self.numbered:
            event["attempt"] = self.num_attempts
        assert self._writer.append(event)
        return event

    def _now(self) -> float:
        self.at_s += self._random.uniform(0.1, 1.0)
        return self.at_s
