"""The interface of a store, its typed error, and a seekable file over it.

A store is a tree of immutable objects named by `/`-separated paths relative to its URL, so the same shards have the
same names in a folder and in a bucket.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from gen_dist.job.errors import GenDistError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_AHEAD_BYTES = 4 << 20  # of an opened object; small enough to skip large members, large enough to hide a round trip


class StoreError(GenDistError):
    """An object that could not be listed or read. One line; `url` names it, `num_attempts` says how often we tried."""

    def __init__(self, message: str, *, url: str = "", num_attempts: int = 1) -> None:
        super().__init__(message)
        self.url = url
        self.num_attempts = num_attempts


@dataclass(frozen=True)
class ObjectInfo:
    """One object as listed."""

    name: str
    """Path below the store's URL."""
    size_bytes: int
    version: str = ""
    """What must not change while the object is in use (the ETag on S3); empty where the store knows none."""


class Store(Protocol):
    """Read access to the objects below one URL. Stores pickle, and may be used by several threads at once."""

    @property
    def url(self) -> str: ...

    def list(self, pattern: str) -> list[ObjectInfo]:
        """Objects whose name matches `pattern`, sorted by name. `*`, `?` and `[...]` do not match a `/`."""
        ...

    def read(self, name: str, start: int = 0, end: int | None = None, *, version: str = "") -> bytes:
        """Bytes [start, end) of an object; fewer only where the object ends. `version` pins what was listed."""
        ...

    def open(self, name: str, *, version: str = "") -> BinaryIO:
        """The object as a seekable file that reads ahead `READ_AHEAD_BYTES` at a time."""
        ...


def matches(name: str, pattern: str) -> bool:
    """Whether a name matches a glob whose wildcards stop at `/`, as `gen_dist.job.shards` matches it beforehand."""
    parts, globs = name.split("/"), pattern.split("/")
    return len(parts) == len(globs) and all(fnmatchcase(part, glob) for part, glob in zip(parts, globs, strict=True))


def literal_head(pattern: str) -> str:
    """The part of a glob before its first wildcard: what a listing can be narrowed to."""
    return pattern[: min((pattern.find(mark) for mark in "*?[" if mark in pattern), default=len(pattern))]


def sorted_matches(infos: Sequence[ObjectInfo], pattern: str) -> list[ObjectInfo]:
    return sorted((info for info in infos if matches(info.name, pattern)), key=lambda info: info.name)


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

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self._store.read(self._name, self._position, self._position + len(view), version=self._version)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def open_ranged(store: Store, name: str, version: str) -> BinaryIO:
    """A seekable, read-ahead file over a store's ranged reads."""
    return cast(BinaryIO, io.BufferedReader(_ObjectFile(store, name, version), READ_AHEAD_BYTES))
