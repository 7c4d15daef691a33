"""The ledger of goodput: what became of every second of a run, by cause, over all its worker groups and drivers.

Made of events alone, so that it can be made again from a run's log. Each length of time was measured by one clock, that
of a worker or that of the hub; the clock on the wall counts only between two drivers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

CAUSES = ("training", "data_wait", "checkpoint", "samples", "start_up", "restart", "lost_work", "idle")
"""`start_up`: until the first worker group of a driver trains; `restart`: likewise for those that replace one;
`lost_work`: what was learned and not kept; `idle`: no driver, or no room for the workers."""
CAUSE_OF_SECTION = {"step": "training", "data": "data_wait", "checkpoint": "checkpoint", "samples": "samples"}
ENDS = ("launch", "death", "rollback", "resize", "end")
"""Events after which no group is under way; a driver that was killed is found to be at the next launch."""
Seconds = dict[str, float]


@dataclass
class _Attempt:
    number: int
    start_cause: str
    spent: Seconds = field(default_factory=dict)
    """By section, as the leading worker said last."""
    kept: Seconds = field(default_factory=dict)
    """Likewise at its newest checkpoint."""
    seconds: Seconds = field(default_factory=lambda: dict.fromkeys(CAUSES, 0.0))
    """By cause, of what is settled."""


class Goodput:
    """Hears the events of a run in their order."""

    def __init__(self) -> None:
        self._idle_s = 0.0
        self._settled: list[_Attempt] = []
        self._attempt: _Attempt | None = None
        self._commits: list[tuple[int, _Attempt, Seconds]] = []  # images, by whom, seconds by cause since the last one
        self._last_s: float | None = None  # on the wall
        self._groups_of_driver = 0
        self._waited_s = 0.0  # for room, since the last group ended

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> Goodput:
        """What the log of a run says so far, in its order."""
        goodput = cls()
        for event in events:
            goodput.hear(event)
        return goodput

    def hear(self, event: Mapping[str, Any]) -> None:
        """Take one event; those of other kinds say nothing of time."""
        act = getattr(self, f"_on_{event.get('kind')}", None)
        if act is not None:
            act(event)
        if event.get("spent") and self._attempt is not None:
            self._attempt.spent = dict(event["spent"])
        if event.get("kind") in ("checkpoint", "end"):
            self._commit(int(event["images"]))
        if event.get("kind") != "job":  # said before the launch, which time counts from
            self._last_s = float(event.get("at_s", self._last_s or 0.0))

    def by_attempt(self) -> dict[int, Seconds]:
        """Seconds by cause of each worker group; the one under way up to what it said last."""
        found = {group.number: dict(group.seconds) for group in self._settled}
        if self._attempt is not None:
            found[self._attempt.number] = _sum([self._attempt.seconds, self._since_commit(self._attempt)])
        return found

    def seconds(self) -> Seconds:
        """By cause, of the whole run."""
        total = _sum(self.by_attempt().values())
        total["idle"] += self._idle_s + self._waited_s
        return total

    def metrics(self) -> dict[str, float]:
        """For the tracker: seconds by cause, and the share of training."""
        seconds = self.seconds()
        whole = sum(seconds.values())
        metrics = {f"goodput/{cause}_s": value for cause, value in seconds.items()}
        return {**metrics, "goodput/share": seconds["training"] / whole if whole else 0.0}

    def of_ended(self, event: Mapping[str, Any]) -> dict[int, dict[str, float]]:
        """For the tracker, by number: what the seconds were of each worker group that has ended by this event.

        A later group may yet have to learn again what one of them left, and then some of its seconds were lost.
        """
        if event.get("kind") not in ENDS:
            return {}
        return {
            number: {f"goodput_of_attempt/{cause}_s": value for cause, value in seconds.items()}
            for number, seconds in self.by_attempt().items()
        }

    def line(self) -> str:
        """For a person: the share of training, and where the rest went."""
        seconds = self.seconds()
        whole = sum(seconds.values()) or 1.0
        rest = sorted(((value, cause) for cause, value in seconds.items() if cause != "training"), reverse=True)
        words = [f"{cause.replace('_', ' ')} {_short(value)}" for value, cause in rest if value >= 0.05]
        return f"{seconds['training'] / whole:.0%} of {_short(whole)} training; {', '.join(words)}"

    def _on_launch(self, event: Mapping[str, Any]) -> None:
        """A new driver: what the one before had under way is over."""
        self._settle(None)
        if self._last_s is not None:
            self._idle_s += max(0.0, float(event["at_s"]) - self._last_s)  # a clock that was put back counts nothing
        self._groups_of_driver = 0

    def _on_attempt(self, event: Mapping[str, Any]) -> None:
        self._settle(None)
        cause = "restart" if self._groups_of_driver else "start_up"
        self._groups_of_driver += 1
        self._attempt = _Attempt(int(event["attempt"]), cause)
        self._attempt.seconds[cause] += max(0.0, float(event["waited_s"]) - self._waited_s)
        self._attempt.seconds["idle"] += self._waited_s
        self._waited_s = 0.0

    def _on_start(self, event: Mapping[str, Any]) -> None:
        """It goes on from here: what later checkpoints kept is lost."""
        while self._commits and self._commits[-1][0] > int(event["images"]):
            _, group, seconds = self._commits.pop()
            for cause, value in seconds.items():
                group.seconds[cause] -= value
                group.seconds["lost_work"] += value

    def _on_waiting(self, event: Mapping[str, Any]) -> None:
        self._waited_s = float(event["for_s"])

    def _on_death(self, event: Mapping[str, Any]) -> None:
        self._settle(float(event["ran_s"]))

    _on_rollback = _on_resize = _on_death

    def _commit(self, images: int) -> None:
        group = self._attempt
        if group is None:
            return
        since = self._since_commit(group)
        group.seconds = _sum([group.seconds, since])
        group.kept = dict(group.spent)
        learned = {cause: value for cause, value in since.items() if cause in CAUSE_OF_SECTION.values()}
        self._commits.append((images, group, learned))

    def _since_commit(self, group: _Attempt) -> Seconds:
        """By cause: what the group has done since its newest checkpoint."""
        found = dict.fromkeys(CAUSES, 0.0)
        for section, value in group.spent.items():
            cause = CAUSE_OF_SECTION.get(section, group.start_cause)
            found[cause] += max(0.0, value - group.kept.get(section, 0.0))
        return found

    def _settle(self, ran_s: float | None) -> None:
        """The group under way is over. What it did after its newest checkpoint is lost, but for its start."""
        group, self._attempt = self._attempt, None
        if group is None:
            return
        since = self._since_commit(group)
        group.seconds[group.start_cause] += since.pop(group.start_cause)
        unsaid_s = max(0.0, (ran_s or 0.0) - sum(group.spent.values()))  # it went on after its last word
        group.seconds["lost_work" if group.spent else group.start_cause] += unsaid_s
        group.seconds["lost_work"] += sum(since.values())
        self._settled.append(group)


def _sum(some: Iterable[Mapping[str, float]]) -> Seconds:
    total = dict.fromkeys(CAUSES, 0.0)
    for seconds in some:
        for cause, value in seconds.items():
            total[cause] += value
    return total


def _short(value_s: float) -> str:
    if value_s < 60:
        return f"{value_s:.1f} s"
    if value_s < 3600:
        return f"{value_s / 60:.1f} min"
    return f"{value_s / 3600:.1f} h"
