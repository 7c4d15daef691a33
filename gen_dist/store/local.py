"""A folder on a disk that every worker can read, or the shards embedded in this package.

A write goes to a file of its own beside the target, named `.NAME.*.part`, and is moved into place whole. A killed
writer leaves such a file behind: no listing shows it; the next write of the same object, or `sweep`, removes it after
an hour.
File and folder are synchronised with the disk before a write returns: an object that is there is there whole, also
after a loss of power.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gen_dist.job.pattern import pattern_fault
from gen_dist.store.base import (
    CHANGED,
    ConflictError,
    MissingError,
    ObjectInfo,
    StoreError,
    checked_name,
    fill,
    sorted_matches,
    wrong_length,
)
from gen_dist.store.stats import StoreStats
from gen_dist.store.write_behind import write_behind

PART = ".part"
STALE_S = 3600.0
LOCK_PATIENCE_S, LOCK_POLL_S = 30.0, 0.005
NUM_FOLDER_TRIES = 100  # to write where others remove what has become empty
REMEDIES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "write to another folder",
    errno.EACCES: "give this user the right to it",
    errno.ENOTDIR: "name a folder",
}


class LocalStore:
    """Objects are the files below `folder`; the version of one is its size and the time it was written.

    `embedded`: the folder is part of the package. Each machine installs its own copy at its own time, so those files
    have no version, and none is written.
    """

    def __init__(self, folder: Path, *, url: str = "", embedded: bool = False) -> None:
        self._folder, self._embedded = folder, embedded
        self.url = url or str(folder)
        self.stats = StoreStats()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "stats": StoreStats()}  # a copy counts what it does itself

    def list(self, pattern: str) -> list[ObjectInfo]:
        if fault := pattern_fault(pattern):
            raise StoreError(f"{self.url}: the pattern {pattern!r} {fault}", url=self.url)
        for wrong, seen, kind in (
            (self._folder.is_file(), "is a file", StoreError),
            (not self._folder.exists(), "does not exist", MissingError),
        ):
            if wrong:
                raise kind(f"{self.url}: the folder {seen}; write the folder that holds the shards", url=self.url)
        infos = []
        for path in self._folder.glob(pattern):
            with contextlib.suppress(FileNotFoundError):  # deleted since the folder was read
                if path.is_file() and not _is_part(path):
                    infos.append(self._info(path.relative_to(self._folder).as_posix(), path.stat()))
        return sorted_matches(infos, pattern)

    def read(self, name: str, start: int = 0, end: int | None = None, *, version: str = "") -> bytes:
        with self.open(name, version=version) as file:
            try:
                file.seek(start)
                data = file.read(-1 if end is None else max(0, end - start))
            except OSError as error:
                raise self._error(name, error) from error
        self.stats.add(received_bytes=len(data))
        return data

    def read_into(self, name: str, start: int, out: memoryview, *, version: str = "") -> int:
        with self._opened(name, version=version, buffering=0) as file:
            try:
                file.seek(start)
                num_bytes = fill(file, out)
            except OSError as error:
                raise self._error(name, error) from error
        self.stats.add(received_bytes=num_bytes)
        return num_bytes

    def open(self, name: str, *, version: str = "") -> BinaryIO:
        return self._opened(name, version=version, buffering=-1)

    def stream(self, name: str, *, version: str = "") -> BinaryIO:
        return self.open(name, version=version)

    def write(self, name: str, data: bytes, *, if_version: str | None = None) -> ObjectInfo:
        def fill(part: Path) -> None:
            with part.open("xb") as file:
                file.write(data)

        return self._publish(name, fill, if_version=if_version)

    def write_file(self, name: str, path: Path) -> ObjectInfo:
        if not path.is_file():
            raise StoreError(
                f"{path}: no such file, so {self.url}/{name} is not written; correct the path", url=self.url
            )
        return self._publish(name, lambda part: _copy(path, part), if_version=None)

    def write_stream(self, name: str, pieces: Iterable[memoryview], *, size_bytes: int) -> ObjectInfo:
        def fill(part: Path) -> None:
            seen_bytes = write_behind(part, pieces)
            if seen_bytes != size_bytes:
                raise wrong_length(f"{self.url}/{name}", seen_bytes=seen_bytes, size_bytes=size_bytes)

        return self._publish(name, fill, if_version=None)

    def delete(self, name: str) -> None:
        target = self._writable(name)
        try:
            target.unlink(missing_ok=True)
            self._remove_empty(name)
        except OSError as error:
            raise self._error(name, error) from error

    def _remove_empty(self, name: str) -> None:
        """Like a bucket, we keep no empty folders."""
        with contextlib.suppress(OSError):  # not empty, or another's turn
            for folder in list((self._folder / name).parents)[: len(Path(name).parts) - 1]:
                folder.rmdir()

    def sweep(self, pattern: str) -> int:
        folder, _, last = pattern.rpartition("/")
        num_bytes = 0
        for part in self._folder.glob(f"{folder}/.{last}.*{PART}".lstrip("/")):
            try:
                num_bytes += _remove_if_stale(part)
                self._remove_empty(part.relative_to(self._folder).as_posix())
            except OSError as error:
                raise self._error(part.relative_to(self._folder).as_posix(), error) from error
        return num_bytes

    def enforces_conditions(self) -> bool:
        return True

    def _opened(self, name: str, *, version: str, buffering: int) -> BinaryIO:
        try:
            file: BinaryIO = (self._folder / name).open("rb", buffering=buffering)
        except OSError as error:
            raise self._error(name, error) from error
        now = self._info(name, os.fstat(file.fileno())).version  # of what we opened, whatever has that name by now
        if version and now and now != version:
            file.close()
            url = f"{self.url}/{name}"
            copied = " (a copy for another machine must keep the times: cp -p)" if _same_size(version, now) else ""
            raise StoreError(f"{url}: size and time were {version} and are {now}: {CHANGED}{copied}", url=url)
        return file

    def _publish(self, name: str, fill: Callable[[Path], object], *, if_version: str | None) -> ObjectInfo:
        target = self._writable(name)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PART}")
        try:
            with contextlib.suppress(FileNotFoundError):  # no folder yet, or no longer
                _remove_stale(target)
            try:
                for left in reversed(range(NUM_FOLDER_TRIES)):
                    try:
                        _make_folder(target.parent)
                        fill(part)
                        break
                    except FileNotFoundError:  # a folder was empty, and removed with its last object (see `delete`)
                        if not left:
                            raise
                _sync(part)
                with _locked(target.parent, needed=bool(if_version)):
                    self._check(name, target, if_version)
                    info = self._info(name, _made_newer(part, target))
                    if if_version == "":
                        os.link(part, target)  # unlike a rename, fails where the object is there by now
                    else:
                        part.replace(target)
                    with contextlib.suppress(FileNotFoundError):  # deleted since, and its folder with it
                        _sync(target.parent)
            finally:
                part.unlink(missing_ok=True)
                self._remove_empty(name)  # that we made for nothing: a full disk still takes folders
        except FileExistsError as error:
            raise self._refusal(name, "it is there already") from error
        except BlockingIOError as error:
            url = f"{self.url}/{name}"
            what = f"a process that stands still has locked the folder for {LOCK_PATIENCE_S:g} s"
            raise StoreError(f"{url}: not written, {what}; end that process (lsof +d FOLDER)", url=url) from error
        except OSError as error:
            raise self._error(name, error) from error
        self.stats.add(sent_bytes=info.size_bytes)
        return info

    def _check(self, name: str, target: Path, if_version: str | None) -> None:
        """Raises where a conditional write may not go on."""
        if not if_version:
            return
        try:
            now = self._info(name, target.stat()).version
        except FileNotFoundError:
            raise self._refusal(name, "it is gone") from None
        if now != if_version:
            raise self._refusal(name, f"its version is {now} and not {if_version}")

    def _writable(self, name: str) -> Path:
        checked_name(name, url=self.url)
        if self._embedded:
            raise StoreError(f"{self.url}: embedded data cannot be written; use a folder or s3://", url=self.url)
        return self._folder / name

    def _info(self, name: str, stat: os.stat_result) -> ObjectInfo:
        version = "" if self._embedded else f"{stat.st_size}-{stat.st_mtime_ns}"
        return ObjectInfo(name, stat.st_size, version)

    def _refusal(self, name: str, why: str) -> StoreError:
        url = f"{self.url}/{name}"
        return ConflictError(
            f"{url}: not written, {why}; another process writes it: read it again, then decide", url=url
        )

    def _error(self, name: str, error: OSError) -> StoreError:
        url = f"{self.url}/{name}"
        remedy = REMEDIES.get(error.errno or 0, "check that this worker sees the folder")
        kind = MissingError if isinstance(error, FileNotFoundError) else StoreError
        return kind(f"{url}: {error.strerror or error}; {remedy}", url=url)


def make_folder(folder: Path) -> None:
    """Makes a folder to write to, and those above it. Raises: StoreError where it cannot be, or is not writable."""
    try:
        _make_folder(folder)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, "nothing can be written there")
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "write to another folder")
        what = f"no folder to write to ({error.strerror or error})"
        raise StoreError(f"{folder}: {what}; {remedy}", url=str(folder)) from error


def _same_size(one: str, other: str) -> bool:
    return one.partition("-")[0] == other.partition("-")[0]


def _is_part(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(PART)


def _remove_stale(target: Path) -> None:
    """Removes what killed writers of this object left."""
    for part in target.parent.glob(f".{_literal(target.name)}.*{PART}"):
        _remove_if_stale(part)


def _remove_if_stale(part: Path) -> int:
    """How many bytes were removed: a live writer's file was written to within the hour."""
    try:
        stat = part.stat()
        if time.time() - stat.st_mtime > STALE_S:
            part.unlink()
            return stat.st_size
    except FileNotFoundError:  # by another
        pass
    return 0


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each of them durably."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        if folder.is_file():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file and no folder") from None
        raise FileNotFoundError(errno.ENOENT, f"{folder} was made and removed by another") from None
    _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot do so for a folder
            raise
    finally:
        os.close(handle)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _copy(source: Path, part: Path) -> None:
    with source.open("rb") as read, part.open("xb") as write:
        shutil.copyfileobj(read, write, 1 << 20)


def _made_newer(part: Path, target: Path) -> os.stat_result:
    """The new file's status, its time moved on where it would equal the old one's: clocks tick every few ms."""
    new = part.stat()
    with contextlib.suppress(FileNotFoundError):
        old = target.stat()
        if (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            os.utime(part, ns=(new.st_atime_ns, new.st_mtime_ns + 1000))
    return part.stat()


@contextlib.contextmanager
def _locked(folder: Path, *, needed: bool) -> Iterator[None]:
    """Keeps other conditional writers of a folder out; released by the kernel when a process dies.

    Raises: BlockingIOError where another one keeps us out for long. A lock lasts milliseconds, but a process that is
    stopped, or hangs in its disk, may hold one, and must not stop those that go on in its place.
    """
    if not needed:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    deadline_s = time.monotonic() + LOCK_PATIENCE_S
    try:
        while not _may_go_on(handle):
            if time.monotonic() > deadline_s:
                raise BlockingIOError(errno.EWOULDBLOCK, f"{folder} is locked")
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(handle)


def _may_go_on(handle: int) -> bool:
    """Takes the lock of a folder, unless another process has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network disks lock no folders: then only the check is left
        pass
    return True
