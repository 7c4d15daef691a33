"""Tracker: hands a run's events to MLflow from a thread of its own; a run neither waits for it nor dies of it."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gen_dist.job.spec import JobSpec
from gen_dist.registry.record import Event, Record, Status

RECORDED = frozenset({"metrics", "samples", "checkpoint"})
MOST_WAITING_EVENTS = 10_000
MOST_WAITING_BYTES = 64 * 2**20
EVENTS_AT_ONCE = 50
LONGEST_PAUSE_S = 30.0

log = logging.getLogger(__name__)


class Tracker:
    """The record of one run. Every method returns at once or within its timeout, and none raises."""

    def __init__(
        self,
        job: JobSpec,
        *,
        run_folder: Path,
        facts: Mapping[str, Any],
        record: Callable[[], Record] | None = None,
    ) -> None:
        """`facts`: data_digest, versions by package, and what else is worth keeping of this run, as JSON holds it."""
        self._make = record or (lambda: _mlflow_record(job, run_folder, facts))
        self._record: Record | None = None
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Event, int]] = deque()
        self._waiting_bytes = 0
        self._busy = False  # the thread holds events, or opens the record
        self._failing = False  # the last try failed
        self._dead = False  # nothing more will be tried
        self._ending: Status | None = None
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run; None until it is open."""
        return None if self._record is None else self._record.run_id

    @property
    def trouble(self) -> str | None:
        """The first error in one line, without secrets; None while all is well."""
        return self._trouble

    def start(self) -> None:
        """Open the record in the background: importing MLflow and making its tables takes seconds."""
        if self._thread.ident is None:
            self._busy = True
            self._thread.start()

    def handle(self, event: Event) -> None:
        """Take one event. Where too many wait for a server that is away, the oldest are lost."""
        if event.get("kind") not in RECORDED:
            return
        size_bytes = sum(len(value) for value in event.values() if isinstance(value, bytes))
        with self._changed:
            if self._dead or self._ending is not None:
                return
            self._waiting.append((dict(event), size_bytes))
            self._waiting_bytes += size_bytes
            while len(self._waiting) > MOST_WAITING_EVENTS or self._waiting_bytes > MOST_WAITING_BYTES:
                self._waiting_bytes -= self._waiting.popleft()[1]
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Until all that was handled is recorded; False where MLflow is in trouble or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._failing or self._dead or self._idle(), timeout_s)
            return self._idle() and not self._dead

    def finish(self, status: Status, timeout_s: float) -> bool:
        """Record what waits and how the run ended; gives up after `timeout_s`, or when MLflow does not answer."""
        with self._changed:
            self._ending = status
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return self._thread.ident is not None and not self._thread.is_alive() and not self._dead

    def _idle(self) -> bool:
        return not self._busy and not self._waiting

    def _work(self) -> None:
        """The thread. Opens, writes until the end, closes."""
        try:
            self._record = record = self._make()
        except Exception as error:  # noqa: BLE001 (no error of MLflow may reach the run)
            self._note(f"MLflow does not start: {' '.join(str(error).split())}")
            return self._give_up()
        if not self._try(record, record.open):
            return self._give_up()
        while events := self._take():
            self._try(record, lambda events=events: record.write(events))  # type: ignore[misc]
            if self._dead:
                return self._give_up()
        if not self._try(record, lambda: record.close(self._ending or "FINISHED")):
            self._give_up()
        return None

    def _take(self) -> list[Event]:
        """The oldest events; none at the end."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._ending is not None)
            count = min(EVENTS_AT_ONCE, len(self._waiting))
            taken = [self._waiting.popleft() for _ in range(count)]
            self._waiting_bytes -= sum(size_bytes for _, size_bytes in taken)
            self._busy = bool(taken)
            return [event for event, _ in taken]

    def _try(self, record: Record, action: Callable[[], None]) -> bool:
        """Do it, again and again while the trouble may pass; at the end of the run only once more."""
        pause_s = 0.5
        while True:
            last = self._ending is not None
            try:
                action()
            except Exception as error:  # noqa: BLE001 (no error of MLflow may reach the run)
                passing = record.passes(error)
                self._note(record.line(error))
            else:
                self._failing = False
                return True
            with self._changed:
                self._failing = True
                self._dead = self._dead or (last and passing)
                self._changed.notify_all()
                if last or not passing:
                    return False
                self._changed.wait_for(lambda: self._ending is not None, pause_s)
            pause_s = min(2.0 * pause_s, LONGEST_PAUSE_S)

    def _note(self, line: str) -> None:
        self._trouble = self._trouble or line
        log.debug("time_s=%.0f trouble=%s", time.time(), line)

    def _give_up(self) -> None:
        with self._changed:
            self._dead, self._busy = True, False
            self._waiting.clear()
            self._waiting_bytes = 0
            self._changed.notify_all()


def _mlflow_record(job: JobSpec, run_folder: Path, facts: Mapping[str, Any]) -> Record:
    from gen_dist.registry.mlflow_tracker import MlflowRecord

    return MlflowRecord(job, run_folder=run_folder, facts=facts)
