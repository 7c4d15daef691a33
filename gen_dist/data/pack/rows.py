"""Pictures inside a table: the parquet and arrow files of Hugging Face data sets, with an image column of bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_dist.data.errors import DataError
from gen_dist.data.pack.listing import NO_IMAGE, Entry, Listing, Raw, RejectedError
from gen_dist.data.pack.split import check_split, split_of
from gen_dist.data.pack.tables import CAPTION_COLUMNS, json_value, no_column, pick, take_caption

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_NAMES = ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "bytes")
ROWS_AT_ONCE = 32  # of pictures in memory


@dataclass(frozen=True)
class RowReader:
    """Reads rows of parquet and arrow files; a row's place is (file below the root, row)."""

    root: Path
    image_column: str
    caption_column: str
    """Empty where there is none."""
    dropped: tuple[str, ...]
    """Other columns of bytes, which no JSON can hold."""

    def read(self, entries: Sequence[Entry]) -> Iterator[Raw | RejectedError]:
        for name, group in groupby(entries, key=lambda entry: entry.place[0]):
            wanted = [entry.place[1] for entry in group]
            for row in _rows(self.root / name, wanted, without=self.dropped):
                yield self._raw(row, where=str(self.root / name))

    def _raw(self, row: dict[str, Any], *, where: str) -> Raw | RejectedError:
        cell = row.pop(self.image_column)
        caption = take_caption(row, self.caption_column, where=where)
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if data is None and path and (self.root / path).is_file():
            data = (self.root / path).read_bytes()
        if not data:
            return RejectedError(NO_IMAGE, f"it refers to {path}" if path else "the cell is empty")
        record = {"file_name": path} if path else {}
        return Raw(data, caption, {**record, **json_value(row)})


def has_image_bytes(path: Path) -> bool:
    """Whether a parquet or arrow file holds pictures, and not paths of pictures."""
    return bool(_image_columns(_schema(path)))


def list_rows(root: Path, names: Sequence[str], *, split: str, image_column: str, caption_column: str) -> Listing:
    """A sample for each row of these files. Raises: DataError for an unknown column or a split that must be named."""
    names = _of_split(root, names, split)
    schema = _schema(root / names[0])
    where = str(root / names[0])
    holding = _image_columns(schema)
    image = pick(image_column, holding, IMAGE_NAMES, option="--image-column", where=where) or holding[0]
    if not image_column and len(holding) > 1 and image not in IMAGE_NAMES:
        raise no_column("image", holding, option="--image-column", where=where)
    readable = [name for name in schema.names if not _is_bytes(schema.field(name).type)]
    caption = pick(caption_column, readable, CAPTION_COLUMNS, option="--caption-column", where=where)
    entries = []
    for name in names:
        if _schema(root / name).names != schema.names:
            remedy = "pack files of one kind at a time"
            raise DataError(f"other columns than in {names[0]}", shard=str(root / name), remedy=remedy)
        # numbered over the whole file, so that keys sort as the rows do
        stem = re.sub(r"\.\w+$", "", name).replace(".", "_")
        for row, size_bytes in enumerate(_sizes(root / name)):
            entries.append(Entry(f"{stem}-{row:08d}", f"{name} row {row}", size_bytes, (name, row)))
    dropped = tuple(name for name in schema.names if name != image and _is_bytes(schema.field(name).type))
    return Listing(
        about=f"{len(names)} {Path(names[0]).suffix[1:]} file(s), images in column {image!r}"
        + (f", captions in {caption!r}" if caption else ", no captions"),
        reader=RowReader(root, image, caption, dropped),
        entries=entries,
        has_captions=bool(caption),
    )


def _of_split(root: Path, names: Sequence[str], split: str) -> list[str]:
    """The files of one split, by their names or by the folders they lie in."""
    by_split: dict[str, list[str]] = {}
    for name in names:
        by_split.setdefault(split_of(name), []).append(name)
    if split:
        check_split(split, by_split, where=str(root))
        return by_split[split]
    if len(by_split) > 1:
        listed = ", ".join(sorted(filter(None, by_split)))
        raise DataError(f"several splits: {listed}", shard=str(root), remedy="write --split with one of them")
    return list(names)


def _image_columns(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if _is_bytes(schema.field(name).type)]


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _schema(path: Path) -> pa.Schema:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_schema(path) if path.suffix == ".parquet" else _arrow(path).schema
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error


def _arrow(path: Path) -> pa.Table:
    """Mapped, not read: `datasets` writes streams, other programs files."""
    import pyarrow as pa

    file = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(file).read_all()
    except pa.ArrowInvalid:
        file.seek(0)
        return pa.ipc.open_file(file).read_all()


def _sizes(path: Path) -> Iterator[int]:
    """Bytes of each row, as the mean of its group: to measure each picture would cost as much as to pack it."""
    import pyarrow.parquet

    if path.suffix != ".parquet":
        num_rows = _arrow(path).num_rows
        yield from [path.stat().st_size // max(1, num_rows)] * num_rows
        return
    about = pyarrow.parquet.ParquetFile(path).metadata
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        yield from [group.total_byte_size // max(1, group.num_rows)] * group.num_rows


def _rows(path: Path, wanted: Sequence[int], *, without: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The wanted rows, which ascend, without reading the groups of rows before them."""
    import pyarrow as pa

    left = list(reversed(wanted))
    try:
        for first, batch in _batches(path, wanted[0], without):
            while left and left[-1] < first + batch.num_rows:
                yield batch.slice(left.pop() - first, 1).to_pylist()[0]
            if not left:
                return
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from error
    raise DataError(f"row {left[-1]} is gone", shard=str(path), remedy="keep the source unchanged while it is packed")


def _batches(path: Path, first_wanted: int, without: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    import pyarrow.parquet

    columns = [name for name in _schema(path).names if name not in without]
    first = 0
    if path.suffix != ".parquet":
        for batch in _arrow(path).select(columns).to_batches():
            yield first, batch
            first += batch.num_rows
        return
    file = pyarrow.parquet.ParquetFile(path)
    for number in range(file.metadata.num_row_groups):
        num_rows = file.metadata.row_group(number).num_rows
        if first + num_rows > first_wanted:
            start = first
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[number], columns=columns):
                yield start, batch
                start += batch.num_rows
        first += num_rows


def _unreadable(path: Path, error: Exception) -> DataError:
    what = " ".join(str(error).split())
    return DataError(f"unreadable ({what})", shard=str(path), remedy="download or write the file again")
