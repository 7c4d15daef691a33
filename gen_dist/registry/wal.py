"""The log of a run: its events as lines of JSON in `RUN/wal/`, from which its record can be made again at any time.

A file `000001.jsonl` has one writer, the process that took its number; a process that was taken for dead and lives on
can so hurt nobody else's lines. Each line ends with its own CRC-32, so a line that a crash or a full disk has torn is
known, and is passed over. What has been written is never changed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import threading
import uuid
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

Event = Mapping[str, Any]
Place = tuple[str, int]

WAL = "wal"
"""Folder of the log in the run folder."""
SYNCED = frozenset({"checkpoint", "end", "status"})
"""Kinds of events that are on the disk when they are said."""
SEGMENT_BYTES = 8 * 2**20  # of one file: what is uploaded again at a checkpoint is at most this
MOST_WAITING_LINES = 10_000  # kept in memory while the disk is full
READ_BYTES = 1 << 20
CONTINUED = "continued"
ID = "id"
_SEGMENT = re.compile(r"\d{6}\.jsonl")
_SEAL = re.compile(rb',"crc32":"([0-9a-f]{8})"\}')
_SEAL_BYTES = 20


def frame(event: Event) -> bytes:
    """The line of an event: JSON whose last key is the CRC-32 of all before it. Bytes are left out."""
    kept = {key: value for key, value in event.items() if not isinstance(value, bytes)}
    text = json.dumps(kept, default=str, separators=(",", ":")).encode()
    return text[:-1] + b',"crc32":"%08x"}\n' % zlib.crc32(text)


def parse(line: bytes) -> dict[str, Any] | None:
    """The event of a line without its end; None where the line is not whole."""
    seal = _SEAL.fullmatch(line[-_SEAL_BYTES:])
    text = line[:-_SEAL_BYTES] + b"}"
    if seal is None or zlib.crc32(text) != int(seal[1], 16):
        return None
    event = json.loads(text)
    return event if isinstance(event, dict) else None


def rows(event: Event) -> int:
    """Points of an event, 1 for one without: what a line weighs for whoever sends it."""
    if event["kind"] == CONTINUED:
        return 0
    return len(event["metrics"]) if event["kind"] == "metrics" else 1


def segments(folder: Path) -> list[Path]:
    """The files of a log, in the order of their numbers."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _SEGMENT.fullmatch(path.name))


class WalWriter:
    """Appends events in files of its own. Never raises: lines that find no room wait in memory until there is some."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder, self._segment_bytes = folder, segment_bytes
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._path: Path | None = None
        self._file = -1
        self._size_bytes = 0
        self.num_dropped = 0
        """Lines lost because the disk was full for too long."""
        self.trouble: str | None = None
        """Why the last line could not be written; None while all is well."""

    @property
    def name(self) -> str:
        """File of the newest line; empty before the first."""
        return self._path.name if self._path else ""

    @property
    def end_bytes(self) -> int:
        """Where the newest line ends in that file."""
        return self._size_bytes

    @property
    def num_waiting(self) -> int:
        """Lines that the disk had no room for so far."""
        return len(self._waiting)

    def append(self, event: Event, *, sync: bool = False) -> bool:
        """Write one line, in one piece; `sync` also waits until it is on the disk. False where it has to wait."""
        line, handle = frame(event), -1
        with self._lock:
            self._waiting.append(line)
            self._drain()
            if len(self._waiting) > MOST_WAITING_LINES:
                self._waiting.popleft()
                self.num_dropped += 1
            written = not self._waiting
            if sync and written:
                handle = os.dup(self._file)
        if handle >= 0:  # outside the lock: another thread that reports does not wait for the disk
            try:
                os.fsync(handle)
            except OSError as error:
                self._note(error)
            finally:
                os.close(handle)
        return written

    def close(self) -> None:
        """What still waits for room is lost."""
        with self._lock:
            self._drain()
            self.num_dropped += len(self._waiting)
            self._waiting.clear()
            self._end_file()

    def _drain(self) -> None:
        try:
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.popleft()
            self.trouble = None
        except OSError as error:
            self._note(error)

    def _write(self, line: bytes) -> None:
        """At the end of the file, or at the head of the next one. What a full disk tears is written over later."""
        if self._file < 0 or (self._size_bytes and self._size_bytes + len(line) > self._segment_bytes):
            before = self._path
            self._next_file()
            if before is not None:
                self._put(frame({"kind": CONTINUED, "of": before.name}))
        self._put(line)

    def _put(self, line: bytes) -> None:
        done = 0
        while done < len(line):
            written = os.pwrite(self._file, memoryview(line)[done:], self._size_bytes + done)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done += written
        self._size_bytes += len(line)

    def _next_file(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        taken = segments(self._folder)
        number = int(taken[-1].stem) + 1 if taken else 1
        while True:
            path = self._folder / f"{number:06d}.jsonl"
            try:
                file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                number += 1
                continue
            self._end_file()
            self._path, self._file, self._size_bytes = path, file, 0
            return

    def _end_file(self) -> None:
        if self._file < 0:
            return
        try:
            os.fsync(self._file)
        except OSError as error:
            self._note(error)
        finally:
            os.close(self._file)
            self._file = -1

    def _note(self, error: OSError) -> None:
        self.trouble = f"{self._folder}: {error.strerror or error}"


@dataclass(frozen=True)
class Entry:
    """One event and where it stands."""

    file: str
    start: int
    end: int
    event: dict[str, Any]


class WalReader:
    """Reads a log from where `offsets` (bytes by file) says, also while it is being written.

    Files come one after the other, but that an event with `after` = [file, bytes] comes when that much of that file,
    and all files before it, have been read: the driver says so of what it heard from workers, whose clocks differ.
    """

    def __init__(self, folder: Path, offsets: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._offsets = dict(offsets or {})
        self._exhausted: set[str] = set()
        self.num_torn = 0
        """Lines passed over because their checksum was wrong."""

    def read(self, most: int) -> list[Entry]:
        """The next events, at most `most`; none where there is nothing new."""
        # the list comes first: all that a process wrote before its successor began is read before the successor's
        self._exhausted = set()
        return list(islice(self._in_order(segments(self._folder), ()), most))

    def _in_order(self, paths: Sequence[Path], open_files: tuple[str, ...], until: Place = ("", 0)) -> Iterator[Entry]:
        """What is new in `paths`, which end with the file of `until` where it names one."""
        for path in paths:
            if path.name in self._exhausted or path.name in open_files:
                continue
            most_bytes = until[1] if path.name == until[0] else None
            for entry in self._entries(path, most_bytes):
                if (after := entry.event.get("after")) and self._offsets.get(after[0], 0) < after[1]:
                    before = [other for other in segments(self._folder) if other.name <= after[0]]
                    yield from self._in_order(before, (*open_files, path.name), tuple(after))
                self._offsets[path.name] = entry.end
                yield entry
            if most_bytes is None:
                self._exhausted.add(path.name)

    def _entries(self, path: Path, most_bytes: int | None) -> Iterator[Entry]:
        start = self._offsets.get(path.name, 0)
        if path.stat().st_size <= start:
            return
        torn = 0
        with path.open("rb", buffering=READ_BYTES) as file:
            file.seek(start)
            while (line := file.readline()).endswith(b"\n"):
                end = start + len(line)
                if most_bytes is not None and end > most_bytes:
                    return
                event = parse(line[:-1])
                if event is None:  # passed over once a whole line follows: the disk of another machine may be behind
                    torn += 1
                else:
                    self.num_torn, torn = self.num_torn + torn, 0
                    yield Entry(path.name, start, end, event)
                start = end


def log_id(folder: Path) -> str:
    """What tells the log in `folder` from any other, wherever that folder is mounted. Made by the first who asks.

    Empty where nothing can be written.
    """
    mine, made = folder / f".id-{uuid.uuid4().hex}", folder / ID
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mine.write_text(uuid.uuid4().hex)
        with contextlib.suppress(FileExistsError):
            os.link(mine, made)  # there whole, or not yet
        mine.unlink()
    except OSError:
        mine.unlink(missing_ok=True)
    return known_log_id(folder)


def known_log_id(folder: Path) -> str:
    """As `log_id`; empty where nobody has asked yet."""
    try:
        return (folder / ID).read_text()
    except OSError:
        return ""


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All events of the log in `folder` (`RUN/wal`), oldest first, without the marks of where a file continues."""
    reader, found = WalReader(folder), []
    while entries := reader.read(10_000):
        found += [entry.event for entry in entries if entry.event["kind"] != CONTINUED]
    return found
