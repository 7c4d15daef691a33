"""What a run says while it runs: events, kept as lines of its log and carried to whoever watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from gen_dist.registry.wal import SYNCED, Event, WalWriter, known_log_id

__all__ = ["Event", "Report", "Reporter", "silent"]

PROGRESS_EVERY_S = 0.5


class Report(Protocol):
    """Where a worker says what happened; only the leading worker's words are heard.

    `kind` is one of start, progress, metrics, samples, checkpoint, skipped, notice, warning, spares, end; an event has
    its Unix time as `at_s`. The hub and the driver say launch, attempt, hang, death, crash_loop, rollback, resize and
    waiting.
    """

    def __call__(self, kind: str, **facts: object) -> None:
        """Say it."""
        ...


class Reporter:
    """Writes events to the log in `folder` (`RUN/wal`) and hands them on. Never raises: a run does not die of its log.

    An event is in the log before the call returns, so a checkpoint is never committed before the points that it
    covers are kept. Several threads may speak.
    """

    def __init__(self, folder: Path, hand_on: Callable[[Event], None], *, heard_in: str = "") -> None:
        """`heard_in`: the id of the log of whoever listens, who keeps the lines where it is another than this one."""
        self._log = WalWriter(folder)
        self._is_shared = heard_in in ("", known_log_id(folder))
        self._hand_on = hand_on
        self._lock = threading.Lock()
        self._progress_s = 0.0
        self._attempt: object = None

    def __call__(self, kind: str, **facts: object) -> None:
        """Progress is thinned out to what an eye can follow, and not kept."""
        now_s = time.time()
        event: dict[str, Any] = {"kind": kind, "at_s": now_s, **facts}
        if kind == "progress":
            with self._lock:
                if now_s - self._progress_s < PROGRESS_EVERY_S:
                    return
                self._progress_s = now_s
        else:
            event = self._kept(event)
        self._hand_on(event)

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _kept(self, event: dict[str, Any]) -> dict[str, Any]:
        """The event as it is handed on: with the file that holds it, or why none does."""
        if event["kind"] == "start":
            self._attempt = event.get("attempt")
        if self._attempt is not None:
            event = {"attempt": self._attempt, **event}
        if event["kind"] == "metrics" and self._log.num_dropped:
            event = {**event, "metrics": {**event["metrics"], "tracking/dropped_lines": float(self._log.num_dropped)}}
        if self._log.append(event, sync=event["kind"] in SYNCED):
            kept = {"wal": self._log.name, "wal_bytes": self._log.end_bytes}
            return {**event, **(kept if self._is_shared else {"wal": ""})}
        return {**event, "log_trouble": self._log.trouble, "dropped_lines": self._log.num_dropped}


def silent(kind: str, **facts: object) -> None:
    """The report of a worker that does not lead."""
