"""The interface of a store, its typed error, and a seekable file over it.

A store is a tree of objects named by `/`-separated paths relative to its URL, so the same shards have the same names
in a folder and in a bucket. An object is written whole and read in ranges; what was listed stays pinned by its version.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from gen_dist.job.errors import GenDistError
from gen_dist.store.stats import StoreStats

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHANGED = "the object changed after it was indexed; restart the run, and keep shards unchanged"
READ_AHEAD_BYTES = 4 << 20  # of an opened object; small enough to skip large members, large enough to hide a round trip


class StoreError(GenDistError):
    """An object that could not be listed, read or written, on one line.

    `url` names it, `num_attempts` says how often we tried.
    """

    def __init__(self, message: str, *, url: str = "", num_attempts: int = 1) -> None:
        super().__init__(message)
        self.url = url
        self.num_attempts = num_attempts


class MissingError(StoreError):
    """There is no such object, or no such folder."""


class NoBucketError(StoreError):
    """There is no such bucket, whoever asks."""


class ConflictError(StoreError):
    """A conditional write that was not done: the object is not what the writer believed it to be."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object as listed."""

    name: str
    """Path below the store's URL."""
    size_bytes: int
    version: str = ""
    """What must not change while the object is in use; empty where there is nothing to hold on to.

    The ETag, in its quotes, on S3; `SIZE-TIME` where a store gives none (whole seconds) and in a folder (nanoseconds).
    A same-sized object put in its place within that time is not noticed."""


class Store(Protocol):
    """The objects below one URL. Stores pickle, and may be used by several threads at once.

    Every method raises StoreError: MissingError for an object that is not there, ConflictError for a condition that
    does not hold. A `version` given to a read must be that of the object as it is now: what changed since it was listed
    is an error, never a mixture. A write that has returned survives a loss of power.
    """

    @property
    def url(self) -> str: ...

    @property
    def stats(self) -> StoreStats:
        """What this store did so far in this process."""
        ...

    def list(self, pattern: str) -> list[ObjectInfo]:
        """Objects whose name matches `pattern`, sorted by name. `*`, `?` and `[...]` do not match a `/`."""
        ...

    def read(self, name: str, start: int = 0, end: int | None = None, *, version: str = "") -> bytes:
        """Bytes [start, end) of an object; fewer only where the object ends."""
        ...

    def read_into(self, name: str, start: int, out: memoryview, *, version: str = "") -> int:
        """Fills `out` (bytes, contiguous) from byte `start` on, and returns how many bytes: a read without a copy.

        They are fewer than there is room for only where the object ends. After an error `out` holds anything.
        """
        ...

    def open(self, name: str, *, version: str = "") -> BinaryIO:
        """The object as a seekable file that reads ahead `READ_AHEAD_BYTES` at a time."""
        ...

    def stream(self, name: str, *, version: str = "") -> BinaryIO:
        """The object from its first byte to its last, in one request as long as nothing breaks; seek with `open`."""
        ...

    def write(self, name: str, data: bytes, *, if_version: str | None = None) -> ObjectInfo:
        """Makes or replaces an object at once: a reader sees the old one or the new one.

        `if_version`: None writes in any case, "" only where there is no such object, a version only while the object
        still has it. Two writers exclude each other in a folder and on stores with conditional writes; a store that
        ignores the condition is asked beforehand, which leaves a gap of one request.
        """
        ...

    def write_file(self, name: str, path: Path) -> ObjectInfo:
        """Copies a file of this machine of any size into the store, as `write` does."""
        ...

    def write_stream(self, name: str, pieces: Iterable[memoryview], *, size_bytes: int) -> ObjectInfo:
        """Writes an object of `size_bytes` from pieces (bytes, contiguous) as they come, as `write` does.

        Holds a few tens of MB of them at most; they must not change before it returns. Nothing is to be seen of an
        object whose pieces do not add up.
        """
        ...

    def delete(self, name: str) -> None:
        """Removes an object; one that is not there is fine."""
        ...

    def sweep(self, pattern: str) -> int:
        """Removes what writers of such objects left when they were killed, an hour ago or more; how many bytes it was.

        No listing shows that. A bucket leaves it to its lifecycle rule, and nothing is done here.
        """
        ...

    def be_patient(self) -> None:
        """From now on waits out minutes of trouble, as a run must, where a person would rather hear of it at once."""
        ...

    def enforces_conditions(self) -> bool:
        """Whether two conditional writes at the same time exclude each other here; found out by writing something."""
        ...


def matches(name: str, pattern: str) -> bool:
    """Whether a name matches a glob whose wildcards stop at `/`, as `gen_dist.job.shards` matches it beforehand."""
    parts, globs = name.split("/"), pattern.split("/")
    return len(parts) == len(globs) and all(fnmatchcase(part, glob) for part, glob in zip(parts, globs, strict=True))


def literal_head(pattern: str) -> str:
    """The part of a glob before its first wildcard: what a listing can be narrowed to."""
    return pattern[: min((pattern.find(mark) for mark in "*?[" if mark in pattern), default=len(pattern))]


def checked_name(name: str, *, url: str) -> str:
    """`name`, if it is a plain path below the store that may be written to."""
    parts = PurePosixPath(name).parts
    if not parts or name != "/".join(parts) or ".." in parts or parts[0] == "/":
        raise StoreError(f"{url}: {name!r} is no name of an object; write folder/name, without '..' or a '/' in front")
    return name


def wrong_length(url: str, *, seen_bytes: int, size_bytes: int) -> StoreError:
    """The error of a stream whose pieces do not add up."""
    return StoreError(f"{url}: not written, its pieces are {seen_bytes} bytes and not {size_bytes}; retry", url=url)


def sorted_matches(infos: Sequence[ObjectInfo], pattern: str) -> list[ObjectInfo]:
    return sorted((info for info in infos if matches(info.name, pattern)), key=lambda info: info.name)


def fill(file: BinaryIO, out: memoryview) -> int:
    """Reads from where `file` stands until `out` is full or the file ends; how many bytes that were."""
    readable = cast(io.RawIOBase, file)  # typing's BinaryIO leaves out readinto, which every binary file has
    num_bytes = 0
    while num_bytes < len(out) and (piece := readable.readinto(out[num_bytes:])):
        num_bytes += piece
    return num_bytes


class _ObjectFile(io.RawIOBase):
    """Unbuffered reads of one object at a position, each answered by one ranged `Store.read`."""

    def __init__(self, store: Store, name: str, version: str) -> None:
        self._store, self._name, self._version = store, name, version
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation(f"{self._name}: seek from the end of a streamed object")
        self._position = offset if whence == io.SEEK_SET else self._position + offset
        return self._position

    def readall(self) -> bytes:
        data = self._store.read(self._name, self._position, version=self._version)  # or io asks for 8 KiB at a time
        self._position += len(data)
        return data

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        num_bytes = self._store.read_into(self._name, self._position, view, version=self._version)
        self._position += num_bytes
        return num_bytes


def open_ranged(store: Store, name: str, version: str) -> BinaryIO:
    """A seekable, read-ahead file over a store's ranged reads."""
    return cast(BinaryIO, io.BufferedReader(_ObjectFile(store, name, version), READ_AHEAD_BYTES))
