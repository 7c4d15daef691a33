"""Captions of any shape that data sets have: lists of several, missing numbers, keys that not every line has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from gen_dist.data.errors import DataError
from gen_dist.data.pack import SourceSpec
from gen_dist.data.pack.detect import list_source
from gen_dist.data.pack.folder import caption_in
from gen_dist.data.pack.listing import Raw
from gen_dist.data.pack.tables import caption_text, columns_of

Rows = list[dict[str, Any]]


def parquet_images(folder: Path, captions: list[Any]) -> None:
    rows = [{"image": b"x", "caption": caption} for caption in captions]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "x.parquet")


def table(folder: Path, captions: list[Any]) -> None:
    rows = [{"file_name": f"{number}.jpg", "captions": caption} for number, caption in enumerate(captions)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for number in range(len(rows)):
        (folder / f"{number}.jpg").write_bytes(b"x")


def sidecars(folder: Path, captions: list[Any]) -> None:
    for number, caption in enumerate(captions):
        (folder / f"{number}.jpg").write_bytes(b"x")
        (folder / f"{number}.json").write_text(json.dumps({"text": caption}))


def read(folder: Path) -> list[Raw]:
    listing = list_source(SourceSpec(url=str(folder)))
    assert listing.has_captions
    raws = list(listing.reader.read(listing.entries))
    assert all(isinstance(raw, Raw) for raw in raws)
    return [raw for raw in raws if isinstance(raw, Raw)]


@pytest.mark.parametrize("make", [parquet_images, table, sidecars])
def test_of_a_list_of_captions_the_first_that_is_not_empty_is_taken_and_all_are_kept(
    tmp_path: Path, make: Callable[[Path, list[Any]], None]
) -> None:
    make(tmp_path, [["one", "two"], ["", " three "], [], None])
    raws = read(tmp_path)
    assert [raw.caption for raw in raws] == ["one", "three", None, None]
    name = {"parquet_images": "caption", "table": "captions", "sidecars": "text"}[make.__name__]
    assert raws[0].record is not None
    assert raws[0].record[name] == ["one", "two"]


@pytest.mark.parametrize("make", [parquet_images, table])
@pytest.mark.parametrize("value", [{"en": "a", "de": "b"}, [{"raw": "a"}]])
def test_a_record_is_no_caption(tmp_path: Path, make: Callable[[Path, list[Any]], None], value: object) -> None:
    make(tmp_path, [value])
    with pytest.raises(DataError, match=r"holds records \((en, de|raw)\) and no captions; write --caption-column"):
        read(tmp_path)


def test_a_number_that_is_none_is_no_caption() -> None:
    about: dict[str, Any] = {"column": "c", "known": ["c"], "where": "x"}
    assert caption_text(float("nan"), **about) is None
    assert caption_text(3, **about) == "3"
    assert caption_in({"caption": {"en": "a"}, "text": "b"}) == "b"


def test_columns_are_those_of_the_first_lines_together(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"file_name": "a.jpg"}\n{"file_name": "b.jpg", "text": "b"}\n')
    assert columns_of(path) == ["file_name", "text"]


def test_sidecars_are_found_whatever_the_case_of_their_endings(tmp_path: Path) -> None:
    files = {"A.JPG": "x", "A.TXT": "of A", "b.jpg": "x", "b.txt": "of b", "b.Txt": "not it"}
    files |= {"c.jpg": "x", "c.jpg.JSON": '{"text": "of c"}', "alone.TXT": "no picture"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    assert [raw.caption for raw in read(tmp_path)] == ["of A", "of b", "of c"]
    listing = list_source(SourceSpec(url=str(tmp_path)))
    assert {left.name for left in listing.left_out} == {"alone.TXT", "b.Txt"}
