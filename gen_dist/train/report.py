"""What a run says while it runs: events, kept as lines of JSON in the run folder and carried to whoever watches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

Event = Mapping[str, Any]
"""`kind` is one of start, progress, metrics, samples, checkpoint, skipped, notice, end from the leading worker; launch,
attempt, hang, death, crash_loop, rollback, resize, waiting from the hub and the driver, `by` "hub". `at_s` is Unix
time."""

PROGRESS_EVERY_S = 0.5


class Report(Protocol):
    """Where a worker says what happened; only the leading worker's words are heard."""

    def __call__(self, kind: str, **facts: object) -> None:
        """Say it."""
        ...


class Reporter:
    """Writes events to `events.jsonl` and hands them on. Never raises: a run does not die of its log."""

    def __init__(self, path: Path, hand_on: Callable[[Event], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._hand_on = hand_on
        self._progress_s = 0.0

    def __call__(self, kind: str, **facts: object) -> None:
        """Progress is thinned out to what an eye can follow, and not kept."""
        now_s = time.time()
        event = {"kind": kind, "at_s": now_s, **facts}
        if kind == "progress":
            if now_s - self._progress_s < PROGRESS_EVERY_S:
                return
            self._progress_s = now_s
        else:
            kept = {key: value for key, value in event.items() if not isinstance(value, bytes)}
            self._file.write(json.dumps(kept, default=str) + "\n")
        self._hand_on(event)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def silent(kind: str, **facts: object) -> None:
    """The report of a worker that does not lead."""
