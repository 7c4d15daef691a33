"""What a source of samples looks like to the packer: a list of entries, known at once, and a reader of their bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

# Of names; what Pillow cannot read of them is told, and not passed over.
IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "jfif")
NO_IMAGE, NO_CAPTION, NOT_FOUND = "no image", "no caption", "image file not found"
NOT_NAMED, UNDECODABLE = "not in the table", "undecodable"
TOO_SMALL, TOO_LONG, BAD_TEXT = "too small", "too elongated", "unreadable caption or record"
TWO_IMAGES = "two images of one name"


@dataclass(frozen=True)
class LeftOut:
    """A sample that is not in the shards."""

    name: str
    reason: str
    detail: str = ""

    def facts(self) -> dict[str, str]:
        return {"name": self.name, "reason": self.reason, "detail": self.detail}


class RejectedError(ValueError):
    """Why a sample is left out; the packer adds its name."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Entry:
    """One sample of the source, before anybody read it."""

    key: str
    """Of the sample in the shards."""
    name: str
    """What the person knows it by: a path, a row of a table, a key of a tar."""
    size_bytes: int
    """Of all its members, nearly: what shards are cut by."""
    place: Any
    """What the reader needs to find it. Pickles; equal places have equal `repr`."""


@dataclass(frozen=True)
class Raw:
    """The bytes of one sample as the source has them."""

    image: bytes
    caption: str | None = None
    record: dict[str, Any] | None = None
    """None: the sample gets no json member."""
    others: dict[str, bytes] = field(default_factory=dict)
    """Members that are passed on as they are, by extension."""


class Reader(Protocol):
    """Reads entries. Pickles, as it goes to the processes of the packer."""

    def read(self, entries: Sequence[Entry]) -> Iterator[Raw | RejectedError]:
        """One answer for each entry, in order. Raises: DataError, StoreError where the source itself is in trouble."""
        ...


@dataclass(frozen=True)
class Listing:
    """A source, listed."""

    about: str
    """What it was taken for, for the person."""
    reader: Reader
    entries: list[Entry]
    """In the order of the shards, each with a key of its own."""
    has_captions: bool
    """Whether captions are to be expected, so that a sample without one stands out."""
    left_out: list[LeftOut] = field(default_factory=list)


def key_of(name: str) -> str:
    """A key from a path: without its extension, and without what a tar or webdataset would trip over."""
    folder, slash, file = name.rpartition("/")
    stem = file.rpartition(".")[0] or file
    # webdataset ends the key at the first dot of the file's name
    folder, stem = (re.sub(r"[\x00-\x1f\x7f\ud800-\udfff]", "_", part) for part in (folder, stem.replace(".", "_")))
    key = f"{folder}{slash}{stem or '_'}".lstrip("/")
    # __NAME__ at the top is a record of webdataset's own, and no sample
    return key.lstrip("_") or "_" if re.match(r"__.*__(/|$)", key) else key


def with_own_keys(entries: Iterable[Entry]) -> list[Entry]:
    """The entries in their order; where several want one key, those behind the first get `_2`, `_3`, ..."""
    entries = list(entries)
    taken = {entry.key for entry in entries}
    seen: set[str] = set()
    result = []
    next_number: dict[str, int] = {}
    for entry in entries:
        key = entry.key
        if key in seen:
            number = next_number.get(key, 2)
            while f"{key}_{number}" in taken:
                number += 1
            next_number[key] = number + 1
            entry = replace(entry, key=f"{key}_{number}")
            taken.add(entry.key)
        seen.add(entry.key)
        result.append(entry)
    return result
