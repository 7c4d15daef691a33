"""Faults inside workers, for tests of whole runs: Python runs this file where its folder is on PYTHONPATH.

GEN_DIST_TEST_FAULTS holds a JSON list of faults, each {"kind", "images", "rank", "times", "folder"}: before the step at
or after `images` on `rank`, at most `times` times over all processes, which count in `folder`. Kinds: `kill` (SIGKILL),
`raise`, `loop` (busy for ever), `hold_gil` (no other thread runs again), `mismatch` (a collective that no other rank
calls), `nan` (the losses of the step are no numbers), `clock` (the clock on the wall jumps an hour back). It changes
`Loop._learn` when that module is imported.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import json
import math
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

NAME = "GEN_DIST_TEST_FAULTS"
CHANGED = "gen_dist.train.loop"


class Finder(importlib.abc.MetaPathFinder):
    """Finds the module as Python does, and changes it once it has run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != CHANGED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            _change(module.Loop)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _change(loop: Any) -> None:
    learn = loop._learn

    def faulty(self: Any) -> None:
        for fault in json.loads(os.environ[NAME]):
            if self.team.rank == fault["rank"] and self.clock.images >= fault["images"] and _due(fault):
                _act(fault["kind"], self)
        learn(self)

    loop._learn = faulty


def _due(fault: dict[str, Any]) -> bool:
    """Takes one of its times: a file that nobody else has made."""
    for number in range(fault.get("times", 1)):
        try:
            (Path(fault["folder"]) / f"{fault['kind']}-{fault['images']}-{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False


def _act(kind: str, loop: Any) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "raise":
        raise IndexError(f"a fault of the test after {loop.clock.images} images")
    elif kind == "loop":
        while True:
            pass
    elif kind == "hold_gil":
        ctypes.PyDLL(None).sleep(10_000)
    elif kind == "mismatch":
        import torch

        torch.distributed.monitored_barrier()  # others would meet gloo's own check of lengths, and die at once
    elif kind == "nan":
        _spoil(loop)
    elif kind == "clock":
        real = time.time
        time.time = lambda: real() - 3600.0
    else:
        raise ValueError(kind)


def _spoil(loop: Any) -> None:
    """The next step's losses are no numbers; `phases` is asked several times for one step."""
    phases, spoiled = loop.recipe.phases, loop.clock

    def no_number(phase: Any) -> Any:
        return replace(
            phase,
            loss=lambda ctx, batch: {name: value * math.nan for name, value in phase.loss(ctx, batch).items()},
        )

    loop.recipe.phases = lambda clock: [no_number(phase) if clock == spoiled else phase for phase in phases(clock)]


if os.environ.get(NAME):
    sys.meta_path.insert(0, Finder())
