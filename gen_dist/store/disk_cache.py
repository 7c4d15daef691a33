"""A folder on a local disk that keeps what was read from a store, so that a second epoch need not fetch it again.

An entry is one range of one version of one object: its bytes, then their length and CRC32. Entries are found by a hash
of store, name, version and range, so that nothing stale can be taken for fresh, and any number of processes of a node
may share the folder: an entry appears by a rename, whole, and is checked on every read; one that is damaged is removed
and read from the store again. A process that is killed leaves at most a file that no one reads, removed when room is
made. Objects without a version are never kept.

`limit_bytes` is kept by removing what was used least recently until a tenth is free. Each process looks whenever it
wrote 1/32 of the limit: one alone never exceeds it, more of them by 1/32 each at most.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import struct
import threading
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gen_dist.store.base import ObjectInfo, Store, fill
from gen_dist.store.stats import StoreStats

FOOTER = struct.Struct("<8sQI")  # magic, length of the bytes before it, their CRC32
MAGIC = b"gdcache1"
ENTRY, PART = ".entry", ".part"
STALE_S = 600.0  # an entry is written in seconds
SCANS_PER_LIMIT = 32
KEPT_SHARE = 0.9

log = logging.getLogger(__name__)


class CachedStore:
    """A store whose ranged reads of pinned objects are kept below `folder`; all else goes straight to `store`.

    A disk that is full or cannot be written to is logged once, and the reads go on without it.
    """

    def __init__(self, store: Store, folder: Path, *, limit_bytes: int) -> None:
        if limit_bytes < 1:
            raise ValueError(f"limit_bytes={limit_bytes}; use 1 or more, or the store without a cache")
        self._store, self._folder, self._limit_bytes = store, folder, limit_bytes
        self.__setstate__({})

    def __getstate__(self) -> dict[str, Any]:
        return {"_store": self._store, "_folder": self._folder, "_limit_bytes": self._limit_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._unscanned_bytes = self._limit_bytes  # the first entry looks at what others left
        self._has_failed = False

    @property
    def url(self) -> str:
        return self._store.url

    @property
    def stats(self) -> StoreStats:
        return self._store.stats

    def read(self, name: str, start: int = 0, end: int | None = None, *, version: str = "") -> bytes:
        if not version or end is None or end <= start:
            return self._store.read(name, start, end, version=version)
        out = memoryview(bytearray(end - start))
        return bytes(out[: self.read_into(name, start, out, version=version)])

    def read_into(self, name: str, start: int, out: memoryview, *, version: str = "") -> int:
        if not version or not len(out):
            return self._store.read_into(name, start, out, version=version)
        path = self._path(name, version, start, start + len(out))
        num_bytes = self._load(path, out)
        if num_bytes is None:
            num_bytes = self._store.read_into(name, start, out, version=version)
            self._keep(path, out[:num_bytes])
        else:
            self.stats.add(num_cache_hits=1, cached_bytes=num_bytes)
        return num_bytes

    def list(self, pattern: str) -> list[ObjectInfo]:
        return self._store.list(pattern)

    def open(self, name: str, *, version: str = "") -> BinaryIO:
        return self._store.open(name, version=version)

    def stream(self, name: str, *, version: str = "") -> BinaryIO:
        return self._store.stream(name, version=version)

    def write(self, name: str, data: bytes, *, if_version: str | None = None) -> ObjectInfo:
        return self._store.write(name, data, if_version=if_version)

    def write_file(self, name: str, path: Path) -> ObjectInfo:
        return self._store.write_file(name, path)

    def write_stream(self, name: str, pieces: Iterable[memoryview], *, size_bytes: int) -> ObjectInfo:
        return self._store.write_stream(name, pieces, size_bytes=size_bytes)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def sweep(self, pattern: str) -> int:
        return self._store.sweep(pattern)

    def be_patient(self) -> None:
        self._store.be_patient()

    def enforces_conditions(self) -> bool:
        return self._store.enforces_conditions()

    def _path(self, name: str, version: str, start: int, end: int) -> Path:
        key = "\0".join((self.url, name, version, str(start), str(end)))
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest[2:]}{ENTRY}"

    def _load(self, path: Path, out: memoryview) -> int | None:
        """The length of a whole entry, its bytes at the front of `out`; None where there is none."""
        try:
            with path.open("rb", buffering=0) as file:
                num_bytes = os.fstat(file.fileno()).st_size - FOOTER.size
                if 0 <= num_bytes <= len(out) and _is_whole(file, out[:num_bytes]):
                    with contextlib.suppress(OSError):  # removed meanwhile: what we hold is still right
                        os.utime(path, ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))
                    return num_bytes
            log.warning("event=cache_entry_damaged path=%s remedy='removed, and read from the store again'", path)
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._give_up(error)
        return None

    def _keep(self, path: Path, data: memoryview) -> None:
        size_bytes = len(data) + FOOTER.size
        if self._has_failed or size_bytes > self._limit_bytes:
            return
        part = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PART}")
        try:
            self._make_room(size_bytes)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with part.open("xb", buffering=0) as file:
                    _write_all(file, data)
                    _write_all(file, memoryview(FOOTER.pack(MAGIC, len(data), zlib.crc32(data))))
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def _make_room(self, size_bytes: int) -> None:
        with self._lock:
            self._unscanned_bytes += size_bytes
            if self._unscanned_bytes < self._limit_bytes // SCANS_PER_LIMIT:
                return
            self._unscanned_bytes = 0
            self._folder.mkdir(parents=True, exist_ok=True)
            with _only_one(self._folder / "lock") as is_mine:
                if is_mine:
                    _evict(self._folder, self._limit_bytes, size_bytes)

    def _give_up(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            log.warning("event=cache_off folder=%s reason='%s' remedy='make room, or move it'", self._folder, error)


def _is_whole(file: BinaryIO, out: memoryview) -> bool:
    """Reads an entry's bytes into `out`, and whether they are what was kept."""
    num_bytes = fill(file, out)
    footer = file.read(FOOTER.size + 1)
    if num_bytes < len(out) or len(footer) != FOOTER.size:
        return False
    return bool(FOOTER.unpack(footer) == (MAGIC, num_bytes, zlib.crc32(out)))


def _write_all(file: Any, data: memoryview) -> None:
    while len(data):
        data = data[file.write(data) :]


def _evict(folder: Path, limit_bytes: int, coming_bytes: int) -> None:
    """Removes stale parts, then the entries used least recently, until what is coming fits and a tenth is free."""
    entries: list[tuple[int, int, str]] = []  # when it was used, its bytes
    for path in _files(folder):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if path.name.endswith(ENTRY):
                entries.append((stat.st_atime_ns, stat.st_size, path.path))
            elif path.name.endswith(PART) and time.time() - stat.st_mtime > STALE_S:
                os.unlink(path)
    used_bytes = sum(size_bytes for _, size_bytes, _ in entries)
    margin_bytes = limit_bytes // SCANS_PER_LIMIT  # what this process may write until it looks again
    if used_bytes + coming_bytes + margin_bytes <= limit_bytes:
        return
    entries.sort(key=lambda entry: entry[0])
    for _, size_bytes, oldest in entries:
        if used_bytes + coming_bytes <= limit_bytes * KEPT_SHARE:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(oldest)
        used_bytes -= size_bytes


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in the folders of entries; there may be a hundred thousand."""
    with os.scandir(folder) as top:
        for below in top:
            if below.is_dir(follow_symlinks=False):
                with os.scandir(below) as files:
                    yield from files


@contextlib.contextmanager
def _only_one(lock: Path) -> Iterator[bool]:
    """Whether this process got the lock; another one that holds it is making room already."""
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
