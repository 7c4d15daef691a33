"""Text that no encoding has, such as half an emoji or names in Latin-1, ends no command and reaches no model."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

from gen_dist.cli.app import main
from gen_dist.data.decode import decode_caption
from gen_dist.data.pack.folder import caption_in
from tests.support.odd_tars import add
from tests.support.shards import noise, png

LATIN1 = "r\udce9sum\udce9"  # as Python reads bytes that are not UTF-8
HALF = b'{"caption": "cut \\ud83d"}'


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Left out for its image: the Latin-1 one, so that its name is told."""
    with tarfile.open(tmp_path / "x.tar", "w", encoding="utf-8", errors="surrogateescape") as tar:
        for key, image in (("half", png(noise(1))), (LATIN1, b"no picture")):
            add(tar, f"{key}.png", image)
            add(tar, f"{key}.json", HALF)
        add(tar, f"{LATIN1}2.png", png(noise(2)))
    return tmp_path


def test_captions_hold_no_half_of_an_emoji() -> None:
    assert decode_caption(HALF, "caption") == "cut ?"
    assert caption_in({"caption": "cut \ud83d"}) == "cut ?"
    assert decode_caption('{"caption": "\U0001f600 caf\u00e9"}'.encode(), "caption") == "\U0001f600 caf\u00e9"


def test_the_data_verbs_print_any_name(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(shards), "-o", str(shards / "sheet.png")]) == 0
    out = capsys.readouterr().out
    assert "“cut ?”" in out
    assert "x.tar r\\udce9sum\\udce9\n" in out
    assert main(["data", "index", str(shards)]) == 0
    assert "left out   x.tar: r\\udce9sum\\udce9: .png cannot be decoded" in capsys.readouterr().out
    assert main(["data", "verify", str(shards)]) == 0


def test_an_output_that_cannot_be_reconfigured_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert main(["--version"]) == 0
