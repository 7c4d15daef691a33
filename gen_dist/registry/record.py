"""What a tracker writes to: a record of a run, wherever it is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

Event = Mapping[str, Any]
Status = Literal["FINISHED", "KILLED", "FAILED"]


class Record(Protocol):
    """Where events go. May block and raise: only the tracker's thread calls it."""

    @property
    def run_id(self) -> str | None:
        """Name of the run there, once it is open."""
        ...

    def open(self) -> None:
        """Start the record, or go on with the one of this run folder."""
        ...

    def write(self, events: Sequence[Event]) -> None:
        """Add to it. Writing the same events again changes nothing."""
        ...

    def close(self, status: Status) -> None:
        """Say how the run ended."""
        ...

    def passes(self, error: BaseException) -> bool:
        """Whether trying again later may help."""
        ...

    def line(self, error: BaseException) -> str:
        """The error for a person, in one line."""
        ...
