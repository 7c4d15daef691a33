"""The claims of the embedded emoji shards: complete, captioned, split for good, and rebuilt to the same bytes."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from gen_dist.data.emoji import build

FOLDER = Path(build.__file__).parent
SHARDS = sorted(FOLDER.glob("*.tar"))


def members(shard: Path) -> dict[str, dict[str, bytes]]:
    """{key: {extension: content}} in the order of the shard."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, extension = member.name.split(".")
            found.setdefault(key, {})[extension] = tar.extractfile(member).read()
    return found


@pytest.fixture(scope="module")
def shards() -> dict[str, dict[str, dict[str, bytes]]]:
    return {shard.name: members(shard) for shard in SHARDS}


@pytest.fixture(scope="module")
def train(shards) -> dict[str, dict[str, bytes]]:
    return {key: sample for name, found in shards.items() if name.startswith("train-") for key, sample in found.items()}


@pytest.fixture(scope="module")
def held_out(shards) -> dict[str, dict[str, bytes]]:
    return shards["heldout-00000.tar"]


@pytest.fixture(scope="module")
def samples(train, held_out) -> dict[str, dict[str, bytes]]:
    return train | held_out


def test_there_are_1911_emoji_in_five_shards_of_under_12_mb(shards, samples):
    assert list(shards) == ["heldout-00000.tar", *(f"train-{i:05d}.tar" for i in range(4))]
    assert len(samples) == 1911
    assert sum(map(len, shards.values())) == 1911, "a key is in two shards"
    assert sum(shard.stat().st_size for shard in SHARDS) < 12_000_000


def test_a_tenth_is_held_out_and_no_image_of_it_is_seen_in_training(train, held_out):
    assert 0.08 <= len(held_out) / 1911 <= 0.12
    assert not train.keys() & held_out.keys()
    assert not {sample["png"] for sample in train.values()} & {sample["png"] for sample in held_out.values()}


def test_every_sample_is_a_64_px_png_with_a_caption_and_a_record(samples):
    for key, sample in samples.items():
        assert list(sample) == ["png", "txt", "json"], key
        with Image.open(io.BytesIO(sample["png"])) as image:
            assert (image.format, image.size) == ("PNG", (64, 64)), key


def test_every_record_names_its_emoji_and_its_label_is_that_of_its_category(samples):
    records = {key: json.loads(sample["json"]) for key, sample in samples.items()}
    fields = ["name", "category", "label", "subcategory", "short_name", "short_names", "unified", "image"]
    categories = sorted({record["category"] for record in records.values()})
    assert categories == list(build.CATEGORIES)
    for key, record in records.items():
        assert list(record) == fields, key
        assert record["unified"].lower() == key
        assert record["label"] == categories.index(record["category"])


def test_captions_are_distinct_lower_case_english_that_can_be_typed(samples):
    captions = [sample["txt"].decode() for sample in samples.values()]
    assert len(set(captions)) == 1911
    assert [text for text in captions if not re.fullmatch(r"[a-z0-9][a-z0-9 ',.-]*[a-z0-9]", text)] == []


@pytest.mark.parametrize(
    ("key", "caption"),
    [
        ("2764-fe0f", "red heart"),  # HEAVY BLACK HEART
        ("1f535", "blue circle"),  # LARGE BLUE CIRCLE
        ("2705", "white check mark in a green box"),  # WHITE HEAVY CHECK MARK
        ("0023-fe0f-20e3", "keycap hash"),  # HASH KEY
        ("1f238", "orange japanese application button"),  # SQUARED CJK UNIFIED IDEOGRAPH-7533
        ("1f1e7-1f1f4", "flag of bolivia"),
        ("1f1fa-1f1f8", "flag of the united states"),
        ("1f1e8-1f1fc", "flag of curacao"),
        ("1f468-200d-1f9b0", "man with red hair"),
        ("1f468-200d-1f469-200d-1f467-200d-1f467", "family of a man, a woman and two girls"),
        ("1f557", "clock showing eight o'clock"),
        ("1f600", "grinning face"),
    ],
)
def test_a_caption_says_what_is_drawn_and_not_its_unicode_name(samples, key, caption):
    assert samples[key]["txt"].decode() == caption


def test_every_shard_is_a_mix_of_the_categories(shards):
    for name, found in shards.items():
        counts = Counter(json.loads(sample["json"])["category"] for sample in found.values())
        assert len(counts) >= 9, name
        assert max(counts.values()) / len(found) < 0.3, name


def test_the_shards_are_rebuilt_to_the_same_bytes_from_their_images_and_records(samples):
    rebuilt = build.pack(
        build.Sample(sample["png"], json.loads(sample["json"])) for _, sample in sorted(samples.items())
    )
    for shard in SHARDS:
        assert rebuilt.pop(shard.name) == shard.read_bytes(), f"{shard.name}: run gen_dist.data.emoji.build again"
    assert not rebuilt


def test_the_shards_carry_nothing_of_the_machine_that_wrote_them():
    for shard in SHARDS:
        with tarfile.open(shard) as tar:
            told = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in tar}
        assert told == {(0, 0, 0, "", "", 0o644, True)}, shard.name


def test_another_version_of_the_package_is_refused_with_the_command_that_gets_the_right_one(tmp_path, capsys):
    (tmp_path / "package.json").write_text('{"name": "emoji-datasource-google", "version": "15.1.2"}')
    assert build.main(["--package", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "15.1.2" in (said := capsys.readouterr().err)
    assert "npm pack emoji-datasource-google@16.0.0" in said
    assert not (tmp_path / "out").exists()


def package_of(samples: dict[str, dict[str, bytes]], folder: Path) -> Path:
    """The npm package's folder, as far as the builder reads it, made from the committed shards."""
    records = [json.loads(sample["json"]) for sample in samples.values()]
    images = folder / "img/google/64"
    images.mkdir(parents=True)
    for record, sample in zip(records, samples.values(), strict=True):
        (images / record["image"]).write_bytes(sample["png"])
    (folder / "emoji.json").write_text(json.dumps(records))
    (folder / "package.json").write_text(json.dumps({"name": build.PACKAGE, "version": build.VERSION}))
    return folder


def test_check_passes_on_the_committed_shards_and_names_the_one_that_differs(samples, tmp_path, capsys):
    package = package_of(samples, tmp_path / "package")
    assert build.main(["--package", str(package), "--check"]) == 0
    archive = tmp_path / "package.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(package, "package")
    out = tmp_path / "out"
    assert build.main(["--package", str(archive), "--out", str(out)]) == 0
    assert build.main(["--package", str(archive), "--out", str(out), "--check"]) == 0
    with (out / "train-00002.tar").open("r+b") as shard:
        shard.write(b"x")
    capsys.readouterr()
    assert build.main(["--package", str(archive), "--out", str(out), "--check"]) == 1
    assert re.findall(r"(\S+\.tar):", capsys.readouterr().err) == [str(out / "train-00002.tar")]
