"""Rows of a csv, tsv, jsonl or parquet file, and which of its columns hold the image and the caption."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from gen_dist.data.decode.text import whole_text
from gen_dist.data.errors import DataError
from gen_dist.job.problem import choose

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
IMAGE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "image_path",
    "image_file",
    "path",
    "filepath",
    "image",
    "img",
    "name",
)
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "description", "sentence", "title")
LONGEST_CELL_BYTES = 1 << 26
NUM_ROWS_TRIED = 100  # for the names of columns


def columns_of(path: Path) -> list[str]:
    """Names of the columns. Raises: DataError."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        with _told(path):
            return list(pyarrow.parquet.read_schema(path).names)
    # a line of JSON may leave out what it has no value for
    columns = dict.fromkeys(name for row in islice(rows_of(path), NUM_ROWS_TRIED) for name in row)
    if not columns:
        raise DataError("the table has no rows", shard=str(path), remedy="write a header line and a row for each image")
    return list(columns)


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Every row as {column: value that JSON can hold}. Raises: DataError naming the line."""
    read = {".csv": _separated, ".tsv": _separated, ".jsonl": _json_lines, ".parquet": _parquet}.get(
        path.suffix.lower()
    )
    if read is None:
        raise DataError("unknown kind of table", shard=str(path), remedy=f"write a {', '.join(SUFFIXES)} file")
    with _told(path):
        yield from read(path)


def pick(wanted: str, known: Sequence[str], guesses: Sequence[str], *, option: str, where: str) -> str:
    """The column: the wanted one, or the first of the guesses that is there ("" if none is).

    Raises: DataError for a wanted column that is not there.
    """
    if wanted:
        if wanted not in known:
            raise DataError(f"{option} {wanted}: no such column", shard=where, remedy=choose(wanted, known))
        return wanted
    lower = {name.lower(): name for name in reversed(known)}
    return next((lower[name] for name in guesses if name in lower), "")


def no_column(what: str, known: Sequence[str], *, option: str, where: str) -> DataError:
    listed = ", ".join(known) or "none"
    return DataError(f"no column looks like the {what}", shard=where, remedy=f"write {option} with one of {listed}")


def caption_text(value: Any, *, column: str, known: Iterable[str], where: str) -> str | None:
    """The caption in a cell: of a list its first text that is not empty; None where there is none.

    Raises: DataError for a record, which of its texts is meant only a person knows.
    """
    if isinstance(value, dict):
        others = ", ".join(name for name in known if name != column) or "none other: write the text into one"
        what = f"column {column!r} holds records ({', '.join(map(str, value))}) and no captions"
        raise DataError(what, shard=where, remedy=f"write --caption-column with one of {others}")
    if isinstance(value, list | tuple):
        texts = [caption_text(part, column=column, known=known, where=where) for part in value]
        return next(filter(None, texts), None)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return whole_text(str(value)).strip()


def take_caption(row: dict[str, Any], column: str, *, where: str) -> str | None:
    """Takes the caption out of a row, but for a list of several, which stays as well. `column`: "" for none.

    Raises: DataError, as `caption_text`.
    """
    if not column:
        return None
    value = row.get(column)
    text = caption_text(value, column=column, known=row, where=where)
    if not (isinstance(value, list | tuple) and len(value) > 1):
        row.pop(column, None)
    return text


def json_value(value: Any) -> Any:
    """The value as JSON can hold it: bytes go, what is not a number becomes null, other types become text."""
    if isinstance(value, dict):
        return {str(name): json_value(part) for name, part in value.items() if not isinstance(part, bytes)}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value if not isinstance(part, bytes)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, str | int | float) else str(value)


class _told:
    """Errors of the readers as one DataError that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        csv.field_size_limit(LONGEST_CELL_BYTES)

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError | ValueError | csv.Error) and not isinstance(error, DataError):
            what = " ".join(str(error).split())  # pyarrow's errors are ValueErrors or OSErrors too
            remedy = "write it again as UTF-8 text or parquet, and check the path"
            raise DataError(f"unreadable table ({what})", shard=str(self._path), remedy=remedy) from error


def _separated(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(
                    f"line {reader.line_num} has {'more' if None in row else 'fewer'} fields than the header names"
                )
            yield row


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is a {type(row).__name__} and no object")
            yield json_value(row)


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024):
        yield from (json_value(row) for row in batch.to_pylist())
