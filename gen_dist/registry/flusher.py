"""Flusher: sends the log of a run to MLflow, in a process of its own beside the run, or by hand.

`python -m gen_dist.registry.flusher RUN` is started by the driver (see `gen_dist.registry.tracker`), which tells it in
lines of JSON on standard input where MLflow is, when it wants to know that all is sent, and that the run has ended.
The answers come the same way. Where the input ends without that word, the driver is gone: what can be sent within a few
seconds is, and the log holds the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from gen_dist.collector import collect_rarely
from gen_dist.registry.cursor import Cursor, only_sender
from gen_dist.registry.history import History
from gen_dist.registry.record import Note, Record, RunGoneError
from gen_dist.registry.secrets import without_secrets
from gen_dist.registry.wal import WAL, Event, WalReader, rows, segments

LINES_AT_ONCE = 500
POLL_S = 0.5
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
ORPHAN_S = 10.0  # for what is left, once the driver is gone
PREDECESSOR_S = 30.0  # for the flusher of a driver that was killed to end
NICENESS = 5  # training goes first

LEFT_OVER = 3
NOT_STARTED = 4

Make = Callable[[Cursor], Record]


class Flusher:
    """Carries the log of one run to one server, and notes how far it came. No other may do so at the same time."""

    def __init__(self, run_folder: Path, tracking_uri: str, *, origin: str = "", record: Make | None = None) -> None:
        """`origin`: what the record calls the folder, where that is a copy. `record`: written to in place of MLflow."""
        self._folder, self._uri = run_folder, tracking_uri
        self._make = record or (lambda cursor: _mlflow(run_folder, tracking_uri, cursor, origin))
        self._record: Record | None = None
        self._notes: list[Note] = []
        self._begin(Cursor(run_folder, tracking_uri))

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run; None until it is open."""
        return None if self._record is None else self._record.run_id

    def lag_rows(self) -> int:
        """Points and other lines of the log that are not in the record yet."""
        while entries := self._counter.read(LINES_AT_ONCE):
            self._num_rows += sum(rows(entry.event) for entry in entries)
        return self._num_rows - self._num_sent

    def step(self) -> bool:
        """Send the next portion; False where nothing is left. Raises what the record raises: then call it again."""
        if self._record is None:
            record = self._make(self._cursor)
            self._opened(record)
        assert self._record is not None
        if not self._notes:
            entries = self._reader.read(LINES_AT_ONCE)
            self._notes = [note for entry in entries for note in self._history.add(entry)]
            self._num_taken = sum(rows(entry.event) for entry in entries)
            if not entries:
                return False
        return self._write()

    def close(self) -> None:
        """The run of a driver that is gone has ended too. Raises as `step` does."""
        self._notes = self._notes or self._history.close(time.time())
        if self._notes and self._record is not None:
            self._write()

    def passes(self, error: BaseException) -> bool:
        """Whether trying again later may help."""
        return self._record is None or self._record.passes(error)

    def line(self, error: BaseException) -> str:
        """The error for a person, in one line without secrets."""
        if self._record is not None:
            return self._record.line(error)
        from gen_dist.registry.connection import one_line

        return one_line(error, self._uri)

    def _begin(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._history = History(cursor.history)
        self._reader = WalReader(self._folder / WAL, self._history.offsets)
        self._counter = WalReader(self._folder / WAL, self._history.offsets)
        self._notes = []
        self._num_rows = self._num_sent = self._num_taken = 0

    def _opened(self, record: Record) -> None:
        try:
            record.open()
        except RunGoneError:
            self._again()
            record = self._make(self._cursor)
            record.open()
        self._record = record

    def _write(self) -> bool:
        assert self._record is not None
        try:
            self._record.write(self._notes)
        except RunGoneError:
            self._again()
            self._record = self._make(self._cursor)
            return True
        self._notes = []
        self._num_sent, self._num_taken = self._num_sent + self._num_taken, 0
        self._cursor.save(self._history.state, self._record.run_id)
        return True

    def _again(self) -> None:
        """The run was deleted in MLflow: another one gets all from the first line on."""
        self._cursor.forget()
        self._begin(self._cursor)


class Control:
    """What the driver asks for, heard by a thread of its own."""

    def __init__(self, lines: IO[str]) -> None:
        self._changed = threading.Condition()
        self.asked = 0
        """Newest number of `{"sync": number}`."""
        self.ending = False
        self.orphaned_s: float | None = None
        """Since when the driver is gone without a word."""
        self._lines = lines
        threading.Thread(target=self._listen, daemon=True).start()

    def wait(self, known: tuple[int, bool], timeout_s: float) -> None:
        """Until `asked` and `ending` are no longer as `known`, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: (self.asked, self.ending) != known, timeout_s)

    def _listen(self) -> None:
        for line in self._lines:
            asked = json.loads(line)
            with self._changed:
                self.asked = asked.get("sync", self.asked)
                self.ending = self.ending or bool(asked.get("end"))
                self._changed.notify_all()
        with self._changed:
            if not self.ending:
                self.orphaned_s = time.monotonic()
            self.ending = True
            self._changed.notify_all()


def serve(flusher: Flusher, control: Control, say: Callable[[Event], None]) -> int:
    """Send until the run has ended; the exit code. Trouble is said, and waited for with growing pauses."""
    pause_s, trouble = 0.0, None
    while True:
        asked, ending = control.asked, control.ending  # before the log is read: what stood there by then is meant
        try:
            more, pause_s = flusher.step(), 0.0
        except Exception as error:  # noqa: BLE001 (no error of MLflow may end this process)
            more, trouble = True, flusher.line(error)
            pause_s = min(max(FIRST_PAUSE_S, 2.0 * pause_s), LONGEST_PAUSE_S)
        failing = pause_s > 0
        facts = {"failing": failing, "trouble": trouble if failing else None, "run_id": flusher.run_id}
        say({**facts, "lag_rows": flusher.lag_rows(), "synced": -1 if more else asked})
        late = control.orphaned_s is not None and time.monotonic() > control.orphaned_s + ORPHAN_S
        if ending and (failing or late):
            return LEFT_OVER
        if ending and not more:
            return _closed(flusher, orphaned=control.orphaned_s is not None)
        if failing or not more:
            control.wait((asked, ending), pause_s or POLL_S)


def _closed(flusher: Flusher, *, orphaned: bool) -> int:
    try:
        if orphaned:
            flusher.close()
    except Exception:  # noqa: BLE001 (nobody is left to hear it)
        return LEFT_OVER
    return 0


def identity(wal: Path) -> str:
    """What tells one log from every other: the checksum of its first line, which never changes. Empty without one."""
    for path in segments(wal):
        with path.open("rb") as file:
            if (line := file.readline()).endswith(b"\n"):
                return hashlib.sha256(line).hexdigest()[:32]
    return ""


def _mlflow(run_folder: Path, tracking_uri: str, cursor: Cursor, origin: str) -> Record:
    from gen_dist.registry.mlflow_tracker import MlflowRecord

    log = partial(identity, run_folder / WAL)
    return MlflowRecord(tracking_uri, run_folder=run_folder, origin=origin, log=log, cursor=cursor)


def main(run_folder: Path) -> int:
    """The process beside a run."""
    collect_rarely()
    for number in (signal.SIGINT, signal.SIGTERM):  # Ray stops a job by one to all below its driver, which says when
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    uri = json.loads(sys.stdin.readline())["tracking_uri"]
    channel = os.dup(1)  # for the driver alone: what a library prints goes nowhere
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)

    def say(facts: Event) -> None:
        with contextlib.suppress(OSError):  # the driver is gone: the input says so too
            os.write(channel, json.dumps(facts).encode() + b"\n")

    control = Control(sys.stdin)
    try:
        with only_sender(run_folder, wait_s=PREDECESSOR_S):
            from gen_dist.registry.connection import connect  # seconds, in which nothing is wrong yet

            if uri.startswith("sqlite:"):
                connect(uri)  # makes its tables: seconds again
            say({"ready": True})
            return serve(Flusher(run_folder, uri), control, say)
    except Exception as error:  # noqa: BLE001 (the driver has to hear of it)
        line = " ".join(str(without_secrets(str(error))).split())
        say({"ready": True, "failing": True, "trouble": f"MLflow is not written to: {line}"})
        return NOT_STARTED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
