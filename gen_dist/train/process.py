"""One worker process made ready: threads, device, and DeepSpeed on the process group that is already there."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch

from gen_dist.collector import collect_as_usual
from gen_dist.job.spec import JobSpec

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's <malloc.h>


def prepare(job: JobSpec) -> torch.device:
    """Set up this process for the job and return its device. Call it before any engine is built."""
    keep_memory()
    torch.set_num_threads(job.cluster.threads_per_worker)
    torch.manual_seed(job.seed)  # networks are initialised from the global generator, equally on every worker
    if not job.cluster.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    _quiet()
    deepspeed = load_deepspeed()
    # DeepSpeed's shared-memory all-reduce for CPUs serves inference only. Built, it costs half a minute of compiling
    # and leaves 69 MB in /dev/shm for each process that is killed; not built, there is nothing to leak.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.init_distributed(
        dist_backend="nccl" if job.cluster.use_gpu else "gloo", auto_mpi_discovery=False, verbose=False
    )
    collect_as_usual()
    if not job.cluster.use_gpu:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def load_deepspeed() -> ModuleType:
    """The module, with nothing loaded for its autotuner, which nothing here uses."""
    with _without("mlflow"):
        return importlib.import_module("deepspeed")


@contextmanager
def _without(name: str) -> Iterator[None]:
    """Within, a module that is not imported yet seems not to be installed."""
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


def keep_memory() -> None:
    """Let glibc keep freed blocks: it gives large ones back to the kernel, and every step faults them in again.

    On CPUs that was 10,000 page faults and a tenth to a third of a step's time. Other C libraries are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def _quiet() -> None:
    """Warnings of libraries about their own internals: nothing a user could act on."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(deepspeed|torch|diffusers|transformers)(\..*)?")
    for name in ("deepspeed", "diffusers", "transformers", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
