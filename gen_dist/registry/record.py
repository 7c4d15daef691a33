"""Record: where the flusher writes what a run's log says, such as MLflow; and Note, one thing that it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from gen_dist.registry.wal import Event

Status = Literal["FINISHED", "KILLED", "FAILED"]


@dataclass(frozen=True)
class Note:
    """One event, and in which run of the record it belongs."""

    run: str
    """`history-1`: the curve that a reader looks at; `attempt-000007`: what one group of workers did."""
    event: Event


class RunGoneError(Exception):
    """The run was deleted where it was recorded: the record has to be made again from the first line on."""


class Record(Protocol):
    """Where notes go. May block and raise."""

    @property
    def run_id(self) -> str | None:
        """Name of the run there, once it is open."""
        ...

    def open(self) -> None:
        """Reach the place. Raises RunGoneError where the runs that were written to are no longer there."""
        ...

    def write(self, notes: Sequence[Note]) -> None:
        """Add to it. Writing the same notes again changes nothing."""
        ...

    def passes(self, error: BaseException) -> bool:
        """Whether trying again later may help."""
        ...

    def line(self, error: BaseException) -> str:
        """The error for a person, in one line."""
        ...
