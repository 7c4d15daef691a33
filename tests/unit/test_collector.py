"""Processes of ours import with the collector held back, and train with Python's own thresholds."""

from __future__ import annotations

import gc
import subprocess
import sys

from gen_dist.collector import MANY, USUAL, collect_as_usual, collect_rarely


def test_whatever_process_imports_the_trainer_collects_rarely_and_who_only_draws_as_before() -> None:
    for module, wanted in {"gen_dist.train.hub": MANY, "gen_dist.sample.model": USUAL[0]}.items():
        code = f"import gc, sys, {module}; sys.exit(gc.get_threshold()[0] != {wanted})"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_a_worker_that_trains_collects_as_python_does() -> None:
    try:
        collect_as_usual()
        assert gc.get_threshold() == USUAL
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
        collect_rarely()
    assert gc.get_threshold()[0] == MANY
