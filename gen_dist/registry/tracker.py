"""Tracker: what the driver knows of the record of its run. The flusher writes it, in a process of its own.

A run neither waits for MLflow nor dies of it: its events lie in the log, and what is not in MLflow at its end can be
sent later.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen_dist.job import arithmetic
from gen_dist.job.load import resolve
from gen_dist.job.spec import JobSpec
from gen_dist.registry.cursor import recorded_run, unsent_rows
from gen_dist.registry.record import Status
from gen_dist.registry.secrets import without_secrets
from gen_dist.registry.wal import SYNCED, WAL, Event, WalWriter

EXIT_S = 6.0  # for MLflow to take in what waits, at the end of a run; the log keeps the rest
LAST_S = 1.0  # for a last word to a server that did not answer within that
STARTING_S = 60.0  # to import MLflow on a busy machine, and to make a database
WARN_AFTER_S = 20.0  # of trouble: a server may be busy for a moment
FIRST_RESTART_S, LONGEST_RESTART_S = 1.0, 60.0
PASSING = frozenset({"progress", "data", "publishing"})
"""Kinds of events that nobody reads later."""
ABOUT_THE_LOG = frozenset({"wal", "wal_bytes", "log_trouble", "dropped_lines"})
ANSWER_S = 12.0  # the flusher speaks twice a second unless a server, or a busy machine, keeps it waiting
JOIN_S = 1.0


class Tracker:
    """The record of one run, as its driver sees it. Every method returns at once or within its timeout."""

    def __init__(self, job: JobSpec, *, run_folder: Path, facts: Mapping[str, Any]) -> None:
        """`facts`: data_digest, versions by package, and what else is worth keeping of this run, as JSON holds it."""
        self._job, self._folder, self._facts = job, run_folder, dict(facts)
        self._uri = arithmetic.tracking_uri(job)
        self._log = WalWriter(run_folder / WAL)
        self._begun = self._spoken = False  # a job was announced; its workers said something
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._heard: dict[str, Any] = {}  # the flusher's last words
        self._heard_s = 0.0  # when it said them
        self._num_asked = 0
        self._ending = False
        self._failing_since_s: float | None = None
        self._trouble: str | None = None
        self._after: dict[str, Any] = {}  # how much of a worker's file was heard of
        self._worker: Event = {}  # what the writing worker last said of the log
        self._warned: set[str] = set()
        self._thread = threading.Thread(target=self._keep, name="flusher", daemon=True)

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run; None until it is open."""
        return self._heard.get("run_id") or recorded_run(self._folder, self._uri)

    @property
    def trouble(self) -> str | None:
        """The first error in one line, without secrets; None while all is well."""
        return self._trouble

    @property
    def failing(self) -> bool:
        """Whether the last try to reach MLflow failed."""
        return bool(self._heard.get("failing"))

    @property
    def answering(self) -> bool:
        """Whether MLflow takes what it is sent."""
        return not self.failing and time.monotonic() < self._heard_s + ANSWER_S

    @property
    def wal_lag_rows(self) -> int:
        """Points and other lines of the log that MLflow does not have, as the flusher last said."""
        return int(self._heard.get("lag_rows", 0))

    @property
    def dropped_lines(self) -> int:
        """Lines that the disk had no room for, and that are lost."""
        return int(self._worker.get("dropped_lines", 0)) + self._log.num_dropped

    def start(self) -> None:
        """Start the flusher."""
        if self._thread.ident is None:
            self._thread.start()

    def begin(self) -> None:
        """Note what is about to be trained: with it the log alone is enough to make the record again."""
        facts = without_secrets(self._facts)
        known = {"data_digest": facts.pop("data_digest", ""), "versions": facts.pop("versions", {})}
        self.handle({"kind": "job", "job": without_secrets(resolve(self._job)), **known, "facts": facts})
        self._begun = True

    def handle(self, event: Event) -> None:
        """Take one event. What a worker wrote is in the log already; the rest is written here."""
        kind, name = event["kind"], event.get("wal", "")
        by_worker = "wal" in event or "log_trouble" in event
        self._spoken = self._spoken or by_worker
        if "log_trouble" in event:
            self._worker = event
        if name and "wal_bytes" in event:
            self._after = {"after": [name, event["wal_bytes"]]}
        if kind in PASSING or (name and (self._folder / WAL / name).exists()):
            return
        if by_worker and "attempt" not in event:
            return  # nobody could tell later which attempt said it
        _keep_grid(event)
        own = {key: value for key, value in event.items() if key not in ABOUT_THE_LOG}
        self._log.append({"at_s": time.time(), **own, **self._after}, sync=kind in SYNCED)

    def measured(self, images: int, metrics: Mapping[str, float]) -> None:
        """Put values of the driver's own on the curve: each step of a key once, whatever attempt it is in."""
        self.handle({"kind": "metrics", "images": images, "metrics": dict(metrics)})

    def news(self) -> list[str]:
        """Warnings that were not given yet: each kind of trouble is told once."""
        since_s, found = self._failing_since_s, {}
        if since_s is not None and time.monotonic() > since_s + WARN_AFTER_S:
            found["mlflow"] = f"{self._trouble}; training goes on, and MLflow gets the rest when it is back"
        if trouble := self._worker.get("log_trouble") or self._log.trouble:
            found["log"] = f"{trouble}; training goes on, make room there before lines of the log are lost"
        if self.dropped_lines:
            found["lost"] = f"{self._folder / WAL}: lines of the log are lost, for there was no room; make room there"
        new = {kind: text for kind, text in found.items() if kind not in self._warned}
        self._warned.update(new)
        return list(new.values())

    def wait(self, timeout_s: float) -> bool:
        """Until all that is in the log is recorded; False where MLflow is in trouble or the time is over."""
        self._wait_until_ready()
        with self._changed:
            self._num_asked += 1
            number = self._num_asked
            self._say({"sync": number})
            self._changed.wait_for(lambda: self.failing or self._heard.get("synced", -1) >= number, timeout_s)
            return int(self._heard.get("synced", -1)) >= number

    def finish(self, status: Status, timeout_s: float) -> bool:
        """Note how the run ended and record what waits; gives up after `timeout_s`, or when MLflow does not answer."""
        if self._begun:
            self.handle({"kind": "status", "status": status})
        self._log.close()
        if self._thread.ident is None:
            return False
        in_vain = self._begun and not self._spoken  # it failed before there was anything to record
        if not in_vain:
            self._wait_until_ready()
        with self._changed:
            self._ending = True
            self._say({"end": True})
            self._changed.notify_all()
            process = self._process
        if process is None:
            return False
        if not self._heard.get("ready") and not self.failing:
            # it makes the tables of a new database: killed there, it would leave half of them; it ends by itself
            return in_vain
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        self._thread.join(JOIN_S)
        if code != 0:  # it may have been kept waiting, and known of less than there is
            self._hear({"lag_rows": unsent_rows(self._folder, self._uri)})
        return code == 0

    def _wait_until_ready(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._heard.get("ready") or self.failing, STARTING_S)

    def _keep(self) -> None:
        """The thread: a flusher that ends before the run is started again."""
        pause_s = FIRST_RESTART_S
        while True:
            how = self._served()
            with self._changed:
                if not self._ending:
                    self._hear({"failing": True, "trouble": f"the process that writes to MLflow {how}"})
                    self._changed.wait_for(lambda: self._ending, pause_s)
                if self._ending:
                    return
                self._heard["ready"] = self._heard["failing"] = False
            pause_s = min(2.0 * pause_s, LONGEST_RESTART_S)

    def _served(self) -> str:
        """From the start of one flusher to its end; how it came to that."""
        try:
            process = self._launched()
        except OSError as error:
            return f"did not start: {error.strerror or error}"
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with contextlib.suppress(ValueError):  # half a line of one that was killed
                    self._hear(json.loads(line))
        return f"ended with code {process.wait()}"

    def _launched(self) -> subprocess.Popen[str]:
        """In a session of its own, so that Ctrl-C reaches it through the driver only."""
        with self._changed:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gen_dist.registry.flusher", str(self._folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(os.environ),  # a copy: the main thread sets variables meanwhile, and moves them as it does
                text=True,
                start_new_session=True,
            )
            if self._process is not None and self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            self._process = process
            self._say({"tracking_uri": self._uri})  # it may hold a password: no argument, no file
            self._say({"sync": self._num_asked, "end": self._ending})
        return process

    def _say(self, words: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):  # it is no more; the next one is told again
            process.stdin.write(json.dumps(words) + "\n")
            process.stdin.flush()

    def _hear(self, words: Mapping[str, Any]) -> None:
        with self._changed:
            self._heard.update(words)
            self._heard_s = time.monotonic()
            if not self.failing:
                self._failing_since_s = None
            elif self._failing_since_s is None:
                self._failing_since_s = time.monotonic()
            self._trouble = self._trouble or words.get("trouble")
            self._changed.notify_all()


def _keep_grid(event: Event) -> None:
    """The image of a worker whose folder is not this one."""
    if event.get("png") and not (path := Path(str(event["path"]))).exists():
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(event["png"])
