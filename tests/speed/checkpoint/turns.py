"""Both sides in turns on two ranks, and what their times say: the middle round of each, the slower rank of a round."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.speed.checkpoint import state
from tests.speed.sides import Result
from tests.support.ranks import Ranks

STAGES = {"zero-1": 1, "zero-3": 3}
LAYERS, WIDTH = 200, 700  # 98 million parameters
TINY_LAYERS, TINY_WIDTH = 4, 16
NUM_ROUNDS = 5
LIMIT_S = 1200.0


@dataclass(frozen=True)
class Times:
    """Of one round, in seconds."""

    ours: tuple[float, ...]
    """What `save` gave, of the slower rank each."""
    theirs_s: float
    flushed_s: float
    """Theirs, until the disk has it as well, which a loss of power does not ask about."""


@contextmanager
def ready(stage: int, *, tiny: bool) -> Iterator[tuple[Ranks, Path, int]]:
    """Two ranks with the state, an empty folder, and how many parameters there are."""
    size = (TINY_LAYERS, TINY_WIDTH) if tiny else (LAYERS, WIDTH)
    with Ranks(2) as ranks, tempfile.TemporaryDirectory(prefix="gen-dist-speed-") as folder:
        parameters = ranks.run(state.build, stage, *size, timeout_s=LIMIT_S)[0]
        yield ranks, Path(folder), parameters


def save_in_turns(
    ranks: Ranks, folder: Path, save: Callable[[Path, int], tuple[float, ...]], *, num_rounds: int
) -> list[Times]:
    """`save`: ours, of `state`. One more round before them is not kept: both sides make their buffers in it."""
    ours, theirs = folder / "ours", folder / "theirs"
    ours.mkdir()
    rounds = []
    for number in range(num_rounds + 1):
        os.sync()
        saved = ranks.run(save, ours, number + 1, timeout_s=LIMIT_S)
        os.sync()
        other_s = ranks.run(state.save_theirs, theirs, f"round-{number}", timeout_s=LIMIT_S)
        written_s = time.perf_counter()
        os.sync()
        flushed_s = max(other_s) + time.perf_counter() - written_s
        rounds.append(Times(tuple(map(max, zip(*saved, strict=True))), max(other_s), flushed_s))
        shutil.rmtree(theirs)
        for path in sorted(ours.glob("images-*"))[:-1]:
            shutil.rmtree(path)
    return rounds[1:]


def convert(folder: Path, tag: str) -> float:
    """Seconds that DeepSpeed's conversion to a universal checkpoint takes, without starting Python and imports."""
    module = "deepspeed.checkpoint.ds_to_universal"
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True, capture_output=True)
    imports_s = time.perf_counter() - started_s
    command = ["--input_folder", str(folder / tag), "--output_folder", str(folder / f"{tag}-universal")]
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", module, *command, "--inject_missing_state"], check=True, capture_output=True)
    return max(0.0, time.perf_counter() - started_s - imports_s)


def chosen(only: str) -> list[str]:
    """Names of the cases that begin so."""
    names = [name for name in STAGES if name.startswith(only)]
    if not names:
        raise ValueError(f"--only {only}: no such case; write the start of one of {', '.join(STAGES)}")
    return names


def result(cases: dict[str, dict[str, float]]) -> Result:
    """The worst case stands for all."""
    worst = max(cases.values(), key=lambda case: case["ratio"])
    return Result(ratio=worst["ratio"], ours=worst["ours_s"], theirs=worst["theirs_s"], unit="s", cases=cases)


def compared(ours: Sequence[float], theirs: Sequence[float], **more: float) -> dict[str, float]:
    """The middle of each side."""
    ours_s, theirs_s = statistics.median(ours), statistics.median(theirs)
    return {"ratio": ours_s / theirs_s, "ours_s": ours_s, "theirs_s": theirs_s, "num_rounds": len(ours), **more}
