"""A look into shards counts what is there, and its sheet shows every sample, broken ones too."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import webdataset as wds
from PIL import Image, ImageFont

from gen_dist.cli.app import main
from gen_dist.data.errors import DataError
from gen_dist.data.inspect import draw_sheet, look
from gen_dist.data.inspect.sheet import cut_end, cut_start, wrapped
from gen_dist.store import open_store
from tests.support.shards import noise, png


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    members: list[dict[str, bytes]] = [
        {"png": png(noise(1).resize((60, 20))), "txt": "ein Hund, der läuft".encode()},
        {"jpg": png(noise(2, size_px=30)), "json": b'{"caption": "from the record", "label": 1}'},
        {"png": b"no picture", "txt": b"words " * 200},
        {"txt": b"no image at all"},
        {"webp": png(Image.new("I;16", (300, 500))), "json": b"["},
    ]
    for shard in range(2):
        with wds.TarWriter(str(folder / f"train-{shard}.tar"), encoder=False) as tar:
            for number, sample in enumerate(members):
                tar.write({"__key__": f"a/very/long/folder/of/names/{shard}{number}", **sample})
    return folder


def test_the_numbers_are_those_of_the_shards(shards: Path) -> None:
    facts = look(open_store(str(shards)), "*.tar", num_shown=10, seed=0).facts
    assert (facts["shards"], facts["samples"], facts["measured"]) == (2, 10, 10)
    assert facts["size_bytes"] == sum(path.stat().st_size for path in shards.iterdir())
    assert facts["extensions"] == {"txt": 6, "png": 4, "json": 4, "jpg": 2, "webp": 2}
    assert facts["width_px"] == {"min": 30, "median": 60, "max": 300}
    assert facts["aspects"] == {"1:2 to 2:3": 2, "square": 2, "2:1 and above": 2}
    assert facts["with_caption"] == 8
    assert facts["caption_characters"] == {"min": 15, "median": 17, "max": 1199}
    assert sorted(facts["unreadable"]) == [f"train-{n}.tar a/very/long/folder/of/names/{n}2" for n in range(2)]


def test_the_same_seed_shows_the_same_samples(shards: Path) -> None:
    keys = [
        [seen.key for seen in look(open_store(str(shards)), "*.tar", num_shown=4, seed=seed).shown]
        for seed in (0, 0, 1)
    ]
    assert keys[0] == keys[1] != keys[2]
    assert len(keys[0]) == 4


@pytest.mark.parametrize("count", [0, 1, 7, 10])
def test_the_sheet_has_a_card_for_each_sample(shards: Path, count: int) -> None:
    shown = look(open_store(str(shards)), "*.tar", num_shown=count, seed=0).shown
    sheet = Image.open(io.BytesIO(draw_sheet(shown, title="shards " * 100, subtitle="of a test")))
    assert sheet.format == "PNG"
    assert (sheet.width < 1000) == (count < 10)
    assert len(sheet.convert("RGB").getcolors(1 << 20) or []) > 10


def test_captions_wrap_within_their_card() -> None:
    font = ImageFont.load_default(13)
    assert isinstance(font, ImageFont.FreeTypeFont)
    for text in ("a few words", "word " * 80, "x" * 500, "long" * 20 + " tail", "字" * 100, ""):
        lines = wrapped(text, font, 200, 3)
        assert len(lines) <= 3
        assert all(font.getlength(line) <= 200 for line in lines)
        whole = "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert whole or lines[-1].endswith("…")
    assert cut_end("short", font, 200) == "short"
    assert cut_start("a/b/c" * 50, font, 100).startswith("…")
    assert cut_start("a/b/c" * 50, font, 100).endswith("a/b/c")


def test_the_command_writes_the_sheet_and_tells_the_numbers(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "inspect", str(shards), "-n", "4", "-o", str(sheet)]) == 0
    assert "samples     10, 5 to 5 a shard" in capsys.readouterr().out
    assert sheet.read_bytes()[:4] == b"\x89PNG"
    assert main(["data", "inspect", str(shards), "-o", "", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["samples"] == 10
    assert "sheet" not in facts
    assert main(["data", "inspect", str(shards), "-o", "no/where.png"]) == 2
    assert capsys.readouterr().err == "-o no/where.png: there is no folder no; make it, or write elsewhere\n"


def test_no_shard_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no shard matches"):
        look(open_store(str(tmp_path)), "*.tar", num_shown=1, seed=0)
