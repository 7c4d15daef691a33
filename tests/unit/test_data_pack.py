"""Every usual layout of pictures and captions becomes the shards that it says, and what does not is told."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import webdataset as wds
from PIL import Image

from gen_dist.data.errors import DataError
from gen_dist.data.pack import PackOptions, SourceSpec, pack
from gen_dist.data.pack.listing import key_of
from tests.support.shards import noise, png


def jpeg(seed: int, *, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    file = io.BytesIO()
    noise(seed, size_px=8, mode="RGB").resize(size).save(file, "JPEG", **options)
    return file.getvalue()


def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def packed(
    source: Path, dest: Path, *, options: PackOptions = PackOptions(), **spec: str
) -> tuple[dict[str, dict[str, bytes]], dict[str, Any]]:
    """The samples by key as webdataset reads them, and the report."""
    facts = pack(SourceSpec(url=str(source), **spec), str(dest), options=options, num_workers=1).facts
    assert facts == json.loads((dest / "pack.report.json").read_text())
    return samples(dest), facts


def samples(folder: Path, pattern: str = "*.tar") -> dict[str, dict[str, bytes]]:
    urls = [str(path) for path in sorted(folder.glob(pattern))]
    read = list(wds.WebDataset(urls, shardshuffle=False)) if urls else []
    found = {one["__key__"]: {name: data for name, data in one.items() if name[0] != "_"} for one in read}
    assert len(found) == len(read), "two samples share a key"
    return found


def test_a_folder_with_sidecars_keeps_every_byte(tmp_path: Path) -> None:
    images = {name: jpeg(number) for number, name in enumerate(("a/one.jpg", "a/b/two.JPEG", "three.v2.jpg"))}
    source = write(
        tmp_path / "in",
        {
            **images,
            "four.png": png(noise(4)),
            "a/one.txt": "eine Katze, schön\n",
            "a/b/two.json": json.dumps({"caption": "two dogs", "label": 3}),
            "three.v2.txt": "three",
            "four.txt": "  ",
            "five.jpg": jpeg(5),
            "alone.txt": "no picture",
            ".hidden.jpg": jpeg(6),
            "six.jpg": jpeg(6)[:200],
            "six.txt": "cut",
        },
    )
    found, facts = packed(source, tmp_path / "out")
    assert set(found) == {"a/one", "a/b/two", "three_v2"}
    assert [found[key]["jpg"] for key in ("a/one", "a/b/two", "three_v2")] == list(images.values())
    assert found["a/one"]["txt"].decode() == "eine Katze, schön"
    assert found["a/b/two"]["txt"] == b"two dogs"
    record = {"file_name": "a/b/two.JPEG", "caption": "two dogs", "label": 3, "width": 40, "height": 30}
    assert json.loads(found["a/b/two"]["json"]) == record
    assert facts["left_out"] == {"no caption": 2, "no image": 1, "undecodable": 1}
    assert {left["name"] for left in facts["left_out_samples"]} == {"four.png", "five.jpg", "alone.txt", "six.jpg"}


def test_pictures_without_any_caption_are_packed_without(tmp_path: Path) -> None:
    found, facts = packed(write(tmp_path / "in", {"a.jpg": jpeg(1), "b.jpg": jpeg(2)}), tmp_path / "out")
    assert {key: sorted(members) for key, members in found.items()} == {"a": ["jpg", "json"], "b": ["jpg", "json"]}
    assert facts["captions"] is False


def test_samples_without_a_caption_stay_where_that_is_allowed(tmp_path: Path) -> None:
    source = write(tmp_path / "in", {"a.jpg": jpeg(1), "b.jpg": jpeg(2), "b.txt": "b"})
    found, _ = packed(source, tmp_path / "out", options=PackOptions(allow_uncaptioned=True))
    assert "txt" not in found["a"]
    assert found["b"]["txt"] == b"b"


ROWS = [
    {"Image": "x/1.jpg", "text": "one, first", "label": "7"},
    {"Image": "x/2", "text": "two", "label": "8"},
    {"Image": "x/1.jpg", "text": "one again", "label": "9"},
    {"Image": "gone.jpg", "text": "gone", "label": "1"},
]


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_gives_a_sample_a_row(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / "in", {"x/1.jpg": jpeg(1), "x/2.png": png(noise(2)), "x/3.jpg": jpeg(3)})
    found, facts = packed(source, tmp_path / "out", captions=str(write_table(tmp_path / f"table{suffix}", ROWS)))
    assert {key: members["txt"].decode() for key, members in found.items()} == {
        "x/1": "one, first",
        "x/1_2": "one again",
        "x/2": "two",
    }
    assert json.loads(found["x/1_2"]["json"])["label"] == "9"
    assert facts["left_out"] == {"image file not found": 1, "not in the table": 1}


def test_a_table_is_asked_for_its_columns_where_they_cannot_be_guessed(tmp_path: Path) -> None:
    source = write(tmp_path / "in", {"1.jpg": jpeg(1)})
    table = str(write_table(tmp_path / "t.csv", [{"bild": "1.jpg", "worte": "eins"}]))
    with pytest.raises(DataError, match=r"image's path; write --image-column with one of bild, worte"):
        packed(source, tmp_path / "out", captions=table)
    with pytest.raises(DataError, match=r"caption; write --caption-column with one of bild, worte"):
        packed(source, tmp_path / "out", captions=table, image_column="bild")
    with pytest.raises(DataError, match=r"--caption-column wort: no such column; did you mean 'worte'"):
        packed(source, tmp_path / "out", captions=table, image_column="bild", caption_column="wort")
    found, _ = packed(source, tmp_path / "out", captions=table, image_column="bild", caption_column="worte")
    assert found["1"]["txt"] == b"eins"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", "file,caption\n1.jpg\n", r"t\.csv: unreadable table \(line 2 has fewer fields than the header"),
        ("t.jsonl", '{"file": "1.jpg", "text": "a"}\n{"file"\n', r"t\.jsonl: unreadable table \(line 2: Expecting"),
        ("t.parquet", "PAR1 no", r"t\.parquet: unreadable table \("),
        ("t.xlsx", "", r"unknown kind of table; write a \.csv"),
        ("t.csv", "file,caption\n9.jpg,nine\n", r"none of its 1 images is in .*the first is '9\.jpg'"),
    ],
)
def test_a_bad_table_is_told_in_one_line(tmp_path: Path, name: str, content: str, told: str) -> None:
    write(tmp_path, {"in/1.jpg": jpeg(1), name: content})
    with pytest.raises(DataError, match=told) as caught:
        packed(tmp_path / "in", tmp_path / "out", captions=str(tmp_path / name))
    assert len(caught.value.lines) == 1


def test_a_metadata_file_beside_images_is_read_for_each_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "in", {"train/1.jpg": jpeg(1), "test/1.jpg": jpeg(2)})
    for split in ("train", "test"):
        write_table(source / split / "metadata.csv", [{"file_name": "1.jpg", "text": f"of {split}"}])
    found, _ = packed(source, tmp_path / "out")
    assert {key: members["txt"] for key, members in found.items()} == {"train/1": b"of train", "test/1": b"of test"}


def hugging_face_rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {"image": {"bytes": jpeg(n), "path": f"{n}.jpg"}, "text": f"picture {n}", "label": n}
        for n in range(first, first + count)
    ]


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_a_hugging_face_data_set_on_disk(tmp_path: Path, kind: str) -> None:
    rows = hugging_face_rows(0, 100)
    rows[3]["image"] = {"bytes": b"no picture", "path": None}
    rows[4]["image"] = None
    table = pa.Table.from_pylist(rows)
    source = write(tmp_path / "in", {"dataset_info.json": "{}"})
    if kind == "parquet":
        pyarrow.parquet.write_table(table.slice(0, 60), source / "train-00000-of-00002.parquet", row_group_size=20)
        pyarrow.parquet.write_table(table.slice(60), source / "train-00001-of-00002.parquet", row_group_size=7)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(source / "data-00000-of-00001.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=9)
    found, facts = packed(source, tmp_path / "out")
    assert [members["txt"].decode() for members in found.values()] == [
        f"picture {n}" for n in range(100) if n not in (3, 4)
    ]
    assert [members["jpg"] for members in found.values()] == [jpeg(n) for n in range(100) if n not in (3, 4)]
    assert json.loads(next(iter(found.values()))["json"]) == {
        "file_name": "0.jpg",
        "label": 0,
        "width": 40,
        "height": 30,
    }
    assert facts["left_out"] == {"undecodable": 1, "no image": 1}


def test_a_data_set_of_several_splits_asks_for_one(tmp_path: Path) -> None:
    source = write(tmp_path / "in", {})
    source.mkdir()
    for split, first in (("train", 0), ("test", 50)):
        table = pa.Table.from_pylist(hugging_face_rows(first, 3))
        pyarrow.parquet.write_table(table, source / f"{split}-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"several splits: test, train; write --split"):
        packed(source, tmp_path / "out")
    with pytest.raises(DataError, match=r"--split dev: no such split; it has test, train|it has train, test"):
        packed(source, tmp_path / "out", split="dev")
    found, _ = packed(source, tmp_path / "out", split="test")
    assert [members["txt"] for members in found.values()] == [b"picture 50", b"picture 51", b"picture 52"]


def test_tars_are_packed_again_with_all_their_members(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    members: dict[str, bytes] = {"txt": b"kept as is \n", "json": b'{"width": 40, "b":1}', "cls": b"3", "npy": b"\x93"}
    for shard in range(2):
        with wds.TarWriter(str(source / f"{shard}.tar"), encoder=False) as tar:
            tar.write({"__key__": "same/key", "jpg": jpeg(shard), **members})
            tar.write({"__key__": f"bare{shard}", "txt": b"no image"})
    found, facts = packed(source, tmp_path / "out")
    assert found == {"same/key": {"jpg": jpeg(0), **members}, "same/key_2": {"jpg": jpeg(1), **members}}
    assert facts["left_out"] == {"no image": 2}
    small, _ = packed(source, tmp_path / "small", options=PackOptions(size_px=15, format="webp"))
    assert Image.open(io.BytesIO(small["same/key"]["webp"])).size == (20, 15)
    assert json.loads(small["same/key"]["json"]) == {"width": 20, "b": 1, "height": 15}
    assert small["same/key"]["txt"] == members["txt"]


@pytest.mark.parametrize(
    ("options", "left_out", "sizes"),
    [
        ({"min_size_px": 31}, {"too small": 2}, {"big": (400, 300)}),
        ({"max_aspect": 1.5}, {"too elongated": 1}, {"big": (400, 300), "turned": (30, 40)}),
        ({"size_px": 20}, {}, {"big": (27, 20), "long": (20, 80), "turned": (20, 27)}),
        ({"size_px": 35}, {}, {"big": (47, 35), "long": (20, 80), "turned": (30, 40)}),
        ({"size_px": 60, "upscale": True}, {}, {"big": (80, 60), "long": (60, 240), "turned": (60, 80)}),
    ],
)
def test_sizes_are_of_the_upright_picture(
    tmp_path: Path, options: dict[str, Any], left_out: dict[str, int], sizes: dict[str, tuple[int, int]]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    pictures = {
        "big.jpg": jpeg(1, size=(400, 300)),
        "long.jpg": jpeg(2, size=(20, 80)),
        "turned.jpg": jpeg(3, exif=exif),
    }
    found, facts = packed(write(tmp_path / "in", pictures), tmp_path / "out", options=PackOptions(**options))
    assert facts["left_out"] == left_out
    records = {key: json.loads(members["json"]) for key, members in found.items()}
    assert {key: (record["width"], record["height"]) for key, record in records.items()} == sizes


@pytest.mark.parametrize(
    ("mode", "form", "expected"),
    [
        ("RGBA", "png", ("keep", "png", "RGBA")),
        ("RGBA", "png", ("jpeg", "jpg", "RGB")),
        ("RGBA", "png", ("webp", "webp", "RGBA")),
        ("P", "gif", ("keep", "png", "RGB")),
        ("L", "bmp", ("keep", "png", "L")),
        ("I;16", "png", ("jpeg", "jpg", "L")),
        ("CMYK", "jpeg", ("png", "png", "RGB")),
        ("CMYK", "jpeg", ("keep", "jpg", "CMYK")),
        ("1", "tiff", ("keep", "png", "L")),
    ],
)
def test_any_kind_of_image_becomes_one_that_a_run_reads(
    tmp_path: Path, mode: str, form: str, expected: tuple[str, str, str]
) -> None:
    file = io.BytesIO()
    image = noise(1) if mode == "RGBA" else Image.new(mode, (16, 16), 1)
    image.save(file, form)
    wanted, extension, becomes = expected
    source = write(tmp_path / "in", {"a.jpg": file.getvalue()})  # whatever the name says
    found, _ = packed(source, tmp_path / "out", options=PackOptions(format=wanted))
    assert Image.open(io.BytesIO(found["a"][extension])).mode == becomes


def test_a_quality_encodes_every_picture_anew(tmp_path: Path) -> None:
    source = write(tmp_path / "in", {"a.jpg": jpeg(1, size=(200, 200), quality=95)})
    found, _ = packed(source, tmp_path / "out", options=PackOptions(quality=30))
    assert len(found["a"]["jpg"]) < len(jpeg(1, size=(200, 200), quality=95)) / 2


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a/b.c.jpg", "a/b_c"),
        ("a.b/c.jpg", "a.b/c"),
        ("__x__/c.jpg", "x__/c"),
        ("__x__.jpg", "x__"),
        ("a\nb.jpg", "a_b"),
        ("noext", "noext"),
    ],
)
def test_keys_hold_nothing_that_webdataset_would_trip_over(name: str, key: str) -> None:
    assert key_of(name) == key


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "holds no files; name a folder of images"),
        ({"a.mp4": b"", "b.pdf": b""}, r"holds only \.mp4, \.pdf; name"),
        ({"a.tar": b"", "b.jpg": b""}, "holds 1 tars and 1 images; name"),
        ({"a.tar": b""}, r"a\.tar"),
        ({"a.parquet": b"x"}, r"a\.parquet: unreadable"),
    ],
)
def test_a_source_of_no_known_kind_is_told_in_one_line(tmp_path: Path, files: dict[str, bytes], told: str) -> None:
    source = write(tmp_path / "in", files)
    source.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=told) as caught:
        packed(source, tmp_path / "out")
    assert len(caught.value.lines) == 1


def test_nothing_to_pack_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no sample could be packed \(1 undecodable\); read .*pack\.report\.json"):
        packed(write(tmp_path / "in", {"a.jpg": b"text"}), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"format": "gif"}, "--format gif cannot be; write one of keep, jpeg, webp, png"),
        ({"upscale": True}, "--upscale cannot be; it needs --size"),
        ({"heldout": 1.0}, r"--heldout 1\.0 cannot be"),
        ({"prefix": "a b"}, "--prefix 'a b' cannot be"),
        ({"prefix": "heldout"}, "held-out shards have that name"),
        ({"quality": 80, "format": "png"}, "--quality has no meaning for png"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        PackOptions(**options)
