"""`--split` takes the files of one split, whatever kind of source they are, and is never passed over."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from gen_dist.data.errors import DataError
from gen_dist.data.pack import SourceSpec
from gen_dist.data.pack.detect import list_source
from gen_dist.data.pack.listing import Listing
from gen_dist.data.pack.split import split_of

FILES = ["train/a.jpg", "train/cats/test.jpg", "test/train_station.jpg", "other/c.jpg"]


def make(folder: Path, names: list[str], **texts: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name, text in texts.items():
        (folder / name.replace("__", "/")).with_suffix(".csv").write_text(text)
    return folder


def listed(folder: Path, split: str = "", captions: str = "") -> Listing:
    return list_source(SourceSpec(url=str(folder), split=split, captions=captions))


def names(listing: Listing) -> set[str]:
    return {entry.name for entry in listing.entries}


def test_a_folder_of_images_gives_one_split_with_its_sidecars_or_all(tmp_path: Path) -> None:
    make(tmp_path, [*FILES, "train/a.txt", "test/train_station.txt"])
    assert names(listed(tmp_path)) == set(FILES)
    found = listed(tmp_path, "train")
    assert names(found) == set(FILES[:2])
    assert found.has_captions
    assert found.left_out == []
    assert names(listed(tmp_path, "test")) == {"test/train_station.jpg"}


def test_tables_beside_images_are_those_of_the_split(tmp_path: Path) -> None:
    texts = {f"{split}__metadata": f"file_name,text\n{split[0]}.jpg,of {split}\n" for split in ("train", "test")}
    make(tmp_path, ["train/t.jpg", "test/t.jpg"], **texts)
    found = listed(tmp_path, "test")
    assert [(entry.name, entry.place.caption) for entry in found.entries] == [("test/t.jpg", "of test")]


def test_a_table_above_the_splits_gives_the_rows_of_one(tmp_path: Path) -> None:
    rows = "file_name,text\ntrain/a.jpg,1\ntest/b.jpg,2\ntrain/gone.jpg,3\n"
    make(tmp_path, ["train/a.jpg", "test/b.jpg"], metadata=rows)
    found = listed(tmp_path, "train")
    assert [(entry.name, entry.place.caption) for entry in found.entries] == [("train/a.jpg", "1")]
    assert [left.name for left in found.left_out] == ["train/gone.jpg"]  # and not the row of the other split


def test_a_split_that_is_not_there_or_has_no_meaning_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "in", FILES)
    with pytest.raises(DataError, match=r"--split nosuch: no such split; it has test, train$"):
        listed(tmp_path / "in", "nosuch")
    make(tmp_path / "plain", ["a.jpg"], metadata="file_name,text\na.jpg,a\n")
    with pytest.raises(DataError, match="it has no named splits: leave --split out"):
        listed(tmp_path / "plain", "train")
    with pytest.raises(DataError, match="--split train: the rows of --captions say which"):
        listed(tmp_path / "plain", "train", captions=str(tmp_path / "plain" / "metadata.csv"))
    make(tmp_path / "tars", ["train-0.tar"])
    with pytest.raises(DataError, match=r"--split train: .* is read as tars; choose shards .* --pattern"):
        listed(tmp_path / "tars", "train")


def test_a_saved_data_set_of_one_split_needs_no_split(tmp_path: Path) -> None:
    make(tmp_path, ["dataset_dict.json"])
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "dataset_info.json").write_text("{}")
    table = pa.Table.from_pylist([{"image": b"x", "text": "one"}])
    with pa.ipc.new_stream(tmp_path / "train" / "data-00000-of-00001.arrow", table.schema) as writer:
        writer.write_table(table)
    assert len(listed(tmp_path).entries) == len(listed(tmp_path, "train").entries) == 1


def test_the_topmost_name_says_the_split() -> None:
    cases = {"data/train-0.parquet": "train", "a/b.jpg": "", "x/val_2/test.jpg": "val", "Test/a.jpg": "test"}
    assert {name: split_of(name) for name in cases} == cases
