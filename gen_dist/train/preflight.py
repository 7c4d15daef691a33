"""What a run would trip over once it holds its machines, looked for before: no GPU, no right to write, no room.

Here is what costs next to nothing; `gen-dist doctor` looks at everything, from the machines themselves.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.store import Store
from gen_dist.store.probe import probe
from gen_dist.train.capacity import CapacityError
from gen_dist.train.ray_settings import LOCAL_STORE_BYTES

SHARED_MEMORY = Path("/dev/shm")
OBJECTS_BYTES = 64 << 20  # what the workers of a machine are handed through Ray's store, where that stands already
NCCL_BYTES = 1 << 30  # what NVIDIA has its containers started with (--shm-size=1g), for workers of one machine
NO_GPU = "set cluster.use_gpu = false, or name a cluster with GPUs as cluster.address"


def before_launch(job: JobSpec, store: Store) -> Iterator[str]:
    """Warnings, one line each. `store`: of the checkpoints. Raises: CapacityError, StoreError."""
    check_gpus(job)
    probe(store)
    if not job.cluster.address and (short := shared_memory_short(job, free_bytes=shared_memory_bytes(), local=True)):
        yield short


def check_gpus(job: JobSpec) -> None:
    """That a local run that wants GPUs has them: Ray would wait for them. Raises: CapacityError."""
    if not job.cluster.use_gpu or job.cluster.address:
        return
    seen, wanted = torch.cuda.device_count(), arithmetic.world_sizes(job)[0]
    if seen < wanted:
        built = " (it is built without CUDA: see infra/README.md, CPU or GPU)" if torch.version.cuda is None else ""
        raise CapacityError(
            f"cluster.use_gpu=true: {wanted} worker(s) with a GPU each, and torch sees {seen} on this machine{built};"
            f" {NO_GPU}"
        )


def shared_memory_bytes() -> int | None:
    """Free room in shared memory; None on a system without."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None


def shared_memory_short(job: JobSpec, *, free_bytes: int | None, local: bool) -> str:
    """What is wrong with so much room on a machine that holds workers, and what to do; empty where nothing is.

    `local`: Ray's store is still to be made there. The workers of one machine exchange gradients there where they have
    GPUs; with gloo they do not.
    """
    needs = {"Ray's objects": LOCAL_STORE_BYTES if local else OBJECTS_BYTES}
    if job.cluster.use_gpu and arithmetic.world_sizes(job)[-1] > 1:
        needs["NCCL"] = NCCL_BYTES
    wanted = sum(needs.values())
    if free_bytes is None or free_bytes >= wanted:
        return ""
    return (
        f"{SHARED_MEMORY} has {free_bytes >> 20:,} MiB free, and {' and '.join(needs)} want {wanted >> 20:,} MiB;"
        " remove what lies there, or start the container with more (--shm-size=2g; Kubernetes: an emptyDir of medium"
        " Memory)"
    )
