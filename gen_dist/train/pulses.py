"""Which worker group hangs: what the hub makes of the pulses of its workers. Pure.

A worker that waits in a collective call for another one looks as stuck as the one that it waits for. So a group hangs
only when none of its workers is at something that may still end: each is over the limit of its section. Or when one of
them is silent, for its watchdog has nothing to do but to speak: its process is stopped, or a thread holds the GIL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Pulse:
    """What the watchdog of one worker says about once a second."""

    attempt: int
    """0 while the worker has not been told."""
    rank: int
    section: str
    for_s: float
    """How long it has been in this section."""
    limit_s: float
    """How long it may be."""
    node: str
    """Ray's name of its machine."""
    pid: int
    saved: bool = False
    """Whether its stacks are saved."""

    @property
    def expired(self) -> bool:
        return self.for_s > self.limit_s


@dataclass(frozen=True)
class Hang:
    """A group that no longer moves."""

    rank: int
    """The worker to look at first: a silent one, else one that stands elsewhere than in a step, else the first over its
    limit. Which of several in one step holds up the others is in their stacks."""
    section: str
    for_s: float
    silent: tuple[int, ...]
    """Workers that were not heard of: stopped, or their machine is gone."""

    def line(self) -> str:
        """For a person."""
        if self.silent:
            ranks = ", ".join(map(str, self.silent))
            return f"no sign of life of rank {ranks} for {self.for_s:.0f} s; the others wait"
        return f"{self.for_s:.0f} s in section {self.section}"


def hang(heard: Mapping[int, tuple[Pulse, float]], *, now_s: float, silent_after_s: float) -> Hang | None:
    """`heard`: the last pulse of each worker and when it came. None while the group may still move."""
    ages = {rank: now_s - at_s for rank, (_, at_s) in heard.items()}
    silent = tuple(sorted(rank for rank, age_s in ages.items() if age_s > silent_after_s))
    loud = {rank: pulse for rank, (pulse, _) in heard.items() if rank not in silent}
    if silent and loud:
        rank = max(silent, key=lambda silent_rank: ages[silent_rank])
        return Hang(rank, heard[rank][0].section, ages[rank], silent)
    if not loud or not all(pulse.expired for pulse in loud.values()):
        return None
    rank = min(loud, key=lambda one: (loud[one].section == "step", -loud[one].for_s, one))
    return Hang(rank, loud[rank].section, loud[rank].for_s, ())
