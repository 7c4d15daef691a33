"""Whole runs with faults in them: the environment that puts them there, and what a log says of how the run went on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support import cli

HOOK = Path(__file__).parent / "faults"
LONGEST_WAIT_S = 600.0


def with_faults(folder: Path, *faults: dict[str, Any]) -> dict[str, str]:
    """Environment of a run whose workers meet these faults, see `faults/sitecustomize.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = [{"times": 1, "folder": str(folder), **fault} for fault in faults]
    path = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, "GEN_DIST_TEST_FAULTS": json.dumps(found)}


def settings(**keys: Any) -> list[str]:
    """`--set` words; `a__b` is the key a.b."""
    return [word for key, value in keys.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def events(log: Path, *kinds: str) -> list[dict[str, Any]]:
    """Those of the log that are of these kinds, in order."""
    return [event for event in cli.read_events(log) if event["kind"] in kinds]


def learned(log: Path, *, group: int, images: int) -> bool:
    """Whether the group that started as the `group`-th has learned from so many images."""
    said = cli.read_events(log)
    places = [number for number, event in enumerate(said) if event["kind"] == "start"]
    if len(places) < group:
        return False
    first, *rest = said[places[group - 1] :]
    return any(event.get("images", 0) >= first["images"] + images for event in rest)


def wait_for(condition: Callable[[], Any], what: str, *, running: cli.Running | None = None) -> Any:
    """What it returns once that is true."""
    give_up_s = time.monotonic() + LONGEST_WAIT_S
    while not (found := condition()):
        if running is not None and running.process.poll() is not None:
            raise AssertionError(f"no {what}, the run has ended: {running.end()}")
        if time.monotonic() > give_up_s:
            raise AssertionError(f"no {what} within {LONGEST_WAIT_S:.0f} s")
        time.sleep(0.2)
    return found
