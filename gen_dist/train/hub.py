"""The hub: a small Ray actor between the workers of a run and the process that watches it.

Workers leave events there and ask whether to stop; the driver takes the events and says when. It lives with the driver,
so it works on any cluster, with no shared folder and no connection from the workers to the tracker.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import ray

from gen_dist.checkpoint import CheckpointError
from gen_dist.train.report import Event

MOST_EVENTS = 4096  # that wait for a driver which does not look: the oldest go first


class SupersededError(CheckpointError):
    """Another worker group has taken over: this one must end."""

    def __init__(self, message: str, *, attempt: int = 0) -> None:
        super().__init__(message)
        self.attempt = attempt
        """Number of this worker group."""


class Hub:
    """State of the actor: events not yet taken, the wish to stop, the newest worker group, the error that ends all."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._stop = False
        self._failure: BaseException | None = None
        self._attempt = 0

    def begin(self, attempt: int) -> None:
        """A worker group has begun, with this number of its run's store."""
        self._attempt = max(self._attempt, attempt)

    def is_superseded(self, attempt: int) -> bool:
        """Whether a newer group of this driver has begun."""
        return self._attempt > attempt

    def put(self, event: Event) -> None:
        """Leave an event."""
        self._events.append(event)

    def take(self) -> list[Event]:
        """All events since the last call."""
        events = list(self._events)
        self._events.clear()
        return events

    def stop(self) -> None:
        """Ask the workers to save and end."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether the workers are to end."""
        return self._stop

    def fail(self, error: BaseException) -> None:
        """Record an error that no restart can mend."""
        self._failure = self._failure or error

    def failure(self) -> BaseException | None:
        """The error that no restart can mend."""
        return self._failure


def start_hub() -> Any:
    """A hub on this node; it takes no CPU from the workers."""
    return ray.remote(Hub).options(num_cpus=0).remote()


class StopSignal:
    """Asks the hub without waiting for it: each call gives the newest answer that has arrived."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._asked: Any = None
        self._stop = False

    def __call__(self) -> bool:
        """Whether this worker has heard that the run is to end."""
        if self._asked is None:
            self._asked = self._hub.stopping.remote()
        ready, _ = ray.wait([self._asked], timeout=0)
        if ready:
            self._stop = self._stop or ray.get(self._asked)
            self._asked = None
        return self._stop
