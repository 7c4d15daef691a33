"""The surroundings of every test: one thread a process, no network, CPU unless a GPU is there."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from hypothesis import settings

from gen_dist.collector import collect_rarely

collect_rarely()

# A shared machine stands still now and then: no claim is about the time of one example.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# Before torch and deepspeed are imported: they read these once. Workers inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

# In the background of a shell SIGINT is ignored, and would be by the commands that tests start to interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where torch finds no GPU; torch is imported only if there is such a test."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
