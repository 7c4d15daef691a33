"""Pictures that are files: each with a caption beside it (`cat.jpg`, `cat.txt`, `cat.json`), or named by a table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from gen_dist.data.errors import DataError
from gen_dist.data.pack.listing import (
    BAD_TEXT,
    IMAGE_EXTENSIONS,
    NO_IMAGE,
    NOT_FOUND,
    NOT_NAMED,
    Entry,
    LeftOut,
    Listing,
    Raw,
    RejectedError,
    key_of,
    with_own_keys,
)
from gen_dist.data.pack.tables import (
    CAPTION_COLUMNS,
    IMAGE_COLUMNS,
    caption_text,
    columns_of,
    no_column,
    pick,
    rows_of,
    take_caption,
)

SIDECAR_ENDS = (".txt", ".json")
NUM_SIDECARS_TRIED = 100  # for a caption in the json sidecars


@dataclass(frozen=True)
class FilePlace:
    """An image file and what belongs to it; paths below the source's folder, empty where there is none."""

    image: str
    caption_file: str = ""
    record_file: str = ""
    caption: str | None = None
    record: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table of captions, and the folder that the paths in it start from."""

    path: Path
    base: str = ""
    """Below the source's folder, with a slash at its end, or empty."""
    image_column: str = ""
    caption_column: str = ""
    needs_caption: bool = False


@dataclass(frozen=True)
class FileReader:
    """Reads pictures and their sidecars."""

    root: Path

    def read(self, entries: Sequence[Entry]) -> Iterator[Raw | RejectedError]:
        for entry in entries:
            place: FilePlace = entry.place
            try:
                yield Raw(self._bytes(place.image), self._caption(place), self._record(entry))
            except RejectedError as error:
                yield error

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:  # of the disk and not of the sample: it was there a moment ago
            what, remedy = error.strerror or str(error), "make it readable, and give the same command again"
            raise DataError(f"unreadable ({what})", shard=str(self.root / name), remedy=remedy) from error

    def _caption(self, place: FilePlace) -> str | None:
        if place.caption_file:
            return _text(self._bytes(place.caption_file), place.caption_file).strip()
        if place.caption is None and place.record_file:
            return caption_in(self._json(place.record_file))
        return place.caption

    def _record(self, entry: Entry) -> dict[str, Any]:
        place: FilePlace = entry.place
        written = self._json(place.record_file) if place.record_file else place.record
        return {"file_name": place.image, **written}

    def _json(self, name: str) -> dict[str, Any]:
        try:
            record = json.loads(_text(self._bytes(name), name))
        except ValueError as error:
            if isinstance(error, RejectedError):
                raise
            raise RejectedError(BAD_TEXT, f"{name}: {error}") from error
        if not isinstance(record, dict):
            raise RejectedError(BAD_TEXT, f"{name} holds a {type(record).__name__} and no JSON object")
        return record


def caption_in(record: dict[str, Any]) -> str | None:
    """The text, or the first of several, under the first key that looks like a caption."""
    for name in CAPTION_COLUMNS:
        value = record.get(name)
        if isinstance(value, str) or (isinstance(value, list) and not any(isinstance(part, dict) for part in value)):
            text = caption_text(value, column=name, known=record, where="")
            if text is not None:
                return text
    return None


def walk(root: Path) -> dict[str, int]:
    """{path below the folder: size in bytes}, sorted by path; hidden files and folders are passed over."""
    found = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for name in files:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                found[path.relative_to(root).as_posix()] = path.stat().st_size
    return dict(sorted(found.items()))


def is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in IMAGE_EXTENSIONS


def list_sidecars(root: Path, files: dict[str, int]) -> Listing:
    """Every image of the folder, each with the `.txt` and the `.json` of its name."""
    entries: list[Entry] = []
    used: set[str] = set()
    sidecars = _sidecars(files)
    for name in filter(is_image, files):
        stem = str(PurePosixPath(name).with_suffix(""))
        texts, records = (
            next((sidecars[wanted] for wanted in (stem + end, name + end) if wanted in sidecars), "")
            for end in SIDECAR_ENDS
        )
        used.update((texts, records))
        size_bytes = files[name] + files.get(texts, 0) + files.get(records, 0)
        entries.append(Entry(key_of(name), name, size_bytes, FilePlace(name, texts, records)))
    alone = [name for name in files if name.lower().endswith(SIDECAR_ENDS) and name not in used]
    return Listing(
        about="a folder of images with sidecars",
        reader=FileReader(root),
        entries=with_own_keys(entries),
        has_captions=_have_captions(FileReader(root), entries),
        left_out=[LeftOut(name, NO_IMAGE, "a sidecar without an image of its name") for name in alone],
    )


def _sidecars(files: Iterable[str]) -> dict[str, str]:
    """By their names with a lower-case ending: cameras and Windows write `A.JPG` and `A.TXT`."""
    found: dict[str, str] = {}
    for name in files:
        stem, dot, ending = name.rpartition(".")
        known = f"{stem}{dot}{ending.lower()}"
        if known.endswith(SIDECAR_ENDS) and (known == name or known not in found):
            found[known] = name
    return found


def _have_captions(reader: FileReader, entries: Sequence[Entry]) -> bool:
    if any(entry.place.caption_file for entry in entries):
        return True
    tried = [entry for entry in entries if entry.place.record_file][:NUM_SIDECARS_TRIED]
    return any(isinstance(raw, Raw) and raw.caption for raw in reader.read(tried))


def list_tables(root: Path, files: dict[str, int], tables: Sequence[Table]) -> Listing:
    """A sample for each row; images that no row names are left out.

    Raises: DataError for a table without the column that is wanted, or with no row whose image is there.
    """
    by_stem: dict[str, str] = {}
    for name in filter(is_image, files):
        by_stem.setdefault(str(PurePosixPath(name).with_suffix("")), name)
    entries: list[Entry] = []
    left_out: list[LeftOut] = []
    has_captions = False
    for table in tables:
        columns = columns_of(table.path)
        where = str(table.path)
        image = pick(table.image_column, columns, IMAGE_COLUMNS, option="--image-column", where=where)
        if not image:
            raise no_column("image's path", columns, option="--image-column", where=where)
        caption = pick(table.caption_column, columns, CAPTION_COLUMNS, option="--caption-column", where=where)
        if not caption and table.needs_caption:
            raise no_column("caption", columns, option="--caption-column", where=where)
        has_captions = has_captions or bool(caption)
        for number, row in enumerate(rows_of(table.path), 1):
            written = str(row.pop(image, None) or "")
            text = take_caption(row, caption, where=where)
            name = _find(written, table.base, root, files, by_stem)
            if not name:
                left_out.append(LeftOut(written or f"row {number}", NOT_FOUND, f"row {number} of {table.path.name}"))
                continue
            place = FilePlace(name, caption=text, record=row)
            entries.append(Entry(key_of(name), name, files[name] + len(text or "") + len(str(row)), place))
    if not entries:
        first = left_out[0].name if left_out else ""
        what = f"none of its {len(left_out)} images is in {root}" + (f" (the first is {first!r})" if first else "")
        raise DataError(what, shard=str(tables[0].path), remedy="write paths that start from the source's folder")
    named = {entry.place.image for entry in entries}
    left_out += [LeftOut(name, NOT_NAMED) for name in files if is_image(name) and name not in named]
    return Listing(
        about=f"a folder of images with {', '.join(table.path.name for table in tables)}",
        reader=FileReader(root),
        entries=with_own_keys(sorted(entries, key=lambda entry: entry.key)),  # sorted() keeps the order of equal keys
        has_captions=has_captions,
        left_out=left_out,
    )


def _find(written: str, base: str, root: Path, files: dict[str, int], by_stem: dict[str, str]) -> str:
    """The file that a cell means, or ""; some tables leave the extension away."""
    if os.path.isabs(written):
        written, base = os.path.relpath(written, root.resolve()), ""
    name = os.path.normpath(base + written.replace("\\", "/")) if written else ""
    return name if name in files and is_image(name) else by_stem.get(name, "")


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RejectedError(BAD_TEXT, f"{name} is not UTF-8 ({error.reason} at byte {error.start})") from error
