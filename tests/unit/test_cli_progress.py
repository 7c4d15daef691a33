"""The live bar of a run: how far, how fast and how long still, on one line of any terminal."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from gen_dist.cli.progress import View

METRICS = {
    "loss/discriminator/fake": 0.6444,
    "loss/discriminator/real": 0.7258,
    "loss/generator/fool": 0.7288,
    "speed/images_per_s": 157.2,
}


@pytest.mark.parametrize(("width", "losses"), [(60, 0), (80, 1), (120, 3)])
def test_the_bar_fits_the_terminal_and_drops_losses_first(width: int, losses: int) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=width, color_system=None)
    with View(console, total_images=22_400) as view:
        view({"kind": "start", "parameters": {"generator": 1e6}, "workers": 2, "resumed_from": "", "images": 0})
        view({"kind": "metrics", "images": 2_400, "metrics": METRICS})
        view({"kind": "progress", "images": 2_400})
        view._bar.refresh()
        line = shown.getvalue().rpartition("\x1b[2K")[2]
    assert cell_len(line) <= width
    assert "discriminator ━" in line
    assert "2,400/22,400 157 images/s -:--:--" in line or "2,400/22,400 157 images/s 0:" in line
    assert sum(name in line for name in ("fake 0.6444", "real 0.7258", "fool 0.7288")) == losses


def test_without_a_terminal_there_are_lines() -> None:
    shown = io.StringIO()
    with View(Console(file=shown, width=80), total_images=22_400) as view:
        view({"kind": "metrics", "images": 2_400, "metrics": METRICS})
    assert "2,400/22,400 images  157 images/s  discriminator: fake 0.6444  real 0.7258" in shown.getvalue()


def test_a_line_has_room_for_the_losses_that_come_first() -> None:
    watched = {f"loss/discriminator/logit_real_{side}px": -0.5 for side in (4, 8, 16, 32, 64, 128)}
    shown = io.StringIO()
    with View(Console(file=shown, width=80), total_images=22_400) as view:
        view({"kind": "metrics", "images": 2_400, "metrics": METRICS | watched})
    (line,) = shown.getvalue().splitlines()
    assert "fool 0.7288" in line
    assert line.endswith("…")
    assert len(line) < 160
