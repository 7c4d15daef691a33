"""History: which points of a run's log belong to the one curve of the job, and which only to an attempt.

An attempt is the life of one group of workers. All that it says goes to its own run, at once. The curve of the job gets
points up to the last committed checkpoint: what an attempt learned after that is learned again by the next one, with
another time on it, and no point can be taken back from MLflow. So each step is there once, however often a run died.

    attempt 1   0 ----- c1 ----- c2 --- x
    attempt 2                    c2 ----- c3 -- x            x: died
    the curve   0 ---------------c2 ------c3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gen_dist.registry.record import Note, Status
from gen_dist.registry.wal import CONTINUED, Entry, Event

POINTS = frozenset({"metrics", "samples"})
SAID_BY_WORKERS = POINTS | {"checkpoint", "end"}


def attempt_run(attempt: int) -> str:
    """Name of an attempt in the record."""
    return f"attempt-{attempt:06d}"


class History:
    """Takes the entries of a log in their order and gives the notes that follow. The same log gives the same notes.

    `state` is all that is needed to go on from `offsets` in another process.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self._read: dict[str, int] = dict(state.get("offsets", {}))  # bytes of each file that were taken
        # by file, the number under which its attempt goes there (None where it has none) and here
        self._writers: dict[str, Sequence[int | None]] = dict(state.get("writers", {}))
        self._number: int = state.get("history", 1)
        self._attempt: int = state.get("attempt", 0)
        self._started: list[Any] = list(state.get("started", ["", None]))  # file and time of its `start`
        self._redone: int = state.get("redone", -1)  # images up to which the curve stood when the attempt began
        self._committed: int = state.get("committed", -1)  # images of the newest committed checkpoint
        self._told: dict[str, int] = dict(state.get("told", {}))  # images of the driver's own points, by key
        self._open: bool = state.get("open", False)  # the attempt has not said how it ended
        self._status: str = state.get("status", "")
        self._job: Event | None = state.get("job")
        self._pending: list[Entry] = []

    @property
    def offsets(self) -> dict[str, int]:
        """Bytes of each file that are decided: a reader which begins there misses nothing."""
        offsets = dict(self._read)
        for entry in reversed(self._pending):
            offsets[entry.file] = entry.start
        return offsets

    @property
    def state(self) -> dict[str, Any]:
        """To go on from, once all notes so far are written."""
        return {
            "offsets": self.offsets,
            "writers": self._writers,
            "history": self._number,
            "attempt": self._attempt,
            "started": self._started,
            "redone": self._redone,
            "committed": self._committed,
            "told": self._told,
            "open": self._open,
            "status": self._status,
            "job": self._job,
        }

    def add(self, entry: Entry) -> list[Note]:
        """The notes that follow from the next entry."""
        self._read[entry.file] = entry.end
        event = entry.event
        kind = event["kind"]
        if kind == CONTINUED:
            if event["of"] in self._writers:
                self._writers[entry.file] = self._writers[event["of"]]
            return []
        if kind == "job":
            self._job = event
            return [Note(self._curve, event)]
        if kind == "start":
            return self._on_start(entry)
        if kind == "status":
            return self._on_status(event["status"], event["at_s"])
        if kind not in SAID_BY_WORKERS:
            return []
        attempt = self._attempt_of(entry)
        if attempt is None:
            return self._on_driver(event)
        notes: list[Note] = []
        if attempt > self._attempt:  # its `start` was lost
            notes = self._begin(attempt, images=max(self._committed, 0), event=event, started=[entry.file, None])
        if kind in POINTS:
            return notes + self._on_point(entry, attempt)
        if kind == "checkpoint" and attempt == self._attempt:
            self._committed = max(self._committed, int(event["images"]))
            return [*notes, *self._decided(), Note(self._curve, {**event, "job": self._job})]
        if kind == "end" and attempt == self._attempt and self._open:
            self._open = False
            return [*notes, Note(attempt_run(attempt), _ended("FINISHED", event["at_s"]))]
        return notes

    def close(self, at_s: float) -> list[Note]:
        """The notes of a run whose driver is gone without a word; none where it has said how it ended."""
        return self._on_status("KILLED", at_s) if self._attempt and self._status == "RUNNING" else []

    @property
    def _curve(self) -> str:
        return f"history-{self._number}"

    def _attempt_of(self, entry: Entry) -> int | None:
        """The attempt that said it; None for the driver."""
        said: int | None = entry.event.get("attempt")
        there, here = self._writers.get(entry.file, (said, said))
        return here if said == there else said

    def _on_start(self, entry: Entry) -> list[Note]:
        event, (file, at_s) = entry.event, self._started
        said: int | None = event.get("attempt")
        attempt = said if said is not None else self._attempt + 1
        if said is None:
            known, old = False, entry.file < file
        else:
            known = bool(file) and said == self._attempt and at_s in (None, event["at_s"])
            old = said <= self._attempt and entry.file < file
        if known or old:  # told twice, or by workers that were given up long ago
            return []
        attempt = max(attempt, self._attempt + 1)  # numbers begin again where all checkpoints were deleted
        self._writers[entry.file] = (said, attempt)
        return self._begin(attempt, images=int(event["images"]), event=event, started=[entry.file, event["at_s"]])

    def _begin(self, attempt: int, *, images: int, event: Event, started: list[Any]) -> list[Note]:
        """A new attempt goes on from `images`: up to there all is committed, the rest of the last attempt is not."""
        notes = []
        at_s = event["at_s"]
        if self._open:
            notes.append(Note(attempt_run(self._attempt), _ended("FAILED", at_s)))
        reached = max(self._redone, self._committed)
        if images == 0 and reached > 0:  # from scratch, as someone wanted it: another curve
            notes.append(Note(self._curve, _ended("KILLED", at_s)))
            self._number, self._redone, self._committed, self._told = self._number + 1, -1, -1, {}
        else:
            self._redone = self._committed = max(reached, images or -1)
            notes += self._decided()
        self._pending = []
        self._attempt, self._started, self._open, self._status = attempt, started, True, "RUNNING"
        began = {"kind": "start", "at_s": at_s, "images": images, "attempt": attempt, "job": self._job}
        began |= {key: event[key] for key in ("workers", "resumed_from") if key in event}
        return [*notes, Note(self._curve, began), Note(attempt_run(attempt), {**began, "parent": self._curve})]

    def _on_point(self, entry: Entry, attempt: int) -> list[Note]:
        images = int(entry.event["images"])
        notes = [Note(attempt_run(attempt), entry.event)]
        if attempt != self._attempt or images <= self._redone:
            return notes
        if images <= self._committed:  # said late, such as a score that took its time
            return [*notes, Note(self._curve, entry.event)]
        self._pending.append(entry)
        return notes

    def _decided(self) -> list[Note]:
        """What waits and is committed by now."""
        ready = [entry for entry in self._pending if int(entry.event["images"]) <= self._committed]
        self._pending = [entry for entry in self._pending if int(entry.event["images"]) > self._committed]
        return [Note(self._curve, entry.event) for entry in ready]

    def _on_driver(self, event: Event) -> list[Note]:
        """Points of no attempt, said by the process that watches: each step of a key once."""
        if event["kind"] != "metrics":
            return []
        images = int(event["images"])
        new = {key: value for key, value in event["metrics"].items() if images > self._told.get(key, -1)}
        self._told.update(dict.fromkeys(new, images))
        return [Note(self._curve, {**event, "metrics": new})] if new else []

    def _on_status(self, status: Status, at_s: float) -> list[Note]:
        notes = []
        if self._open:
            self._open = False
            notes.append(Note(attempt_run(self._attempt), _ended(status, at_s)))
        self._status = status
        return [*notes, Note(self._curve, _ended(status, at_s))]


def _ended(status: Status, at_s: float) -> Event:
    return {"kind": "status", "status": status, "at_s": at_s}
