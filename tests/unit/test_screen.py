"""What shows a run may end before it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gen_dist.cli.screen import screen


def test_it_writes_what_it_is_told(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        screen(file).print("64 images")
    assert (tmp_path / "log").read_text() == "64 images\n"


def test_a_reader_that_went_away_is_no_error_then_or_at_the_end() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as file:  # closing it writes what is held
        shown = screen(file)
        for _ in range(3):
            shown.print("64 images")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_nor_is_a_full_disk() -> None:
    with Path("/dev/full").open("w") as file:
        shown = screen(file)
        for _ in range(3):
            shown.print("64 images")
