"""The cheap part of a preflight: what a run would trip over once it holds its machines, found in a few requests.

`gen-dist train` looks before it starts workers, and `gen-dist submit` before it sends a job, at what can be seen from a
laptop. `gen-dist doctor` looks at everything, from the machines themselves.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from gen_dist.job import arithmetic
from gen_dist.job.errors import GenDistError
from gen_dist.job.report import ends_early
from gen_dist.job.settings import settings_of
from gen_dist.job.spec import JobSpec, S3Spec
from gen_dist.registry.answers import SERVED, check_answers
from gen_dist.store import NoBucketError, StoreError, open_store
from gen_dist.store.probe import probe
from gen_dist.train.capacity import CapacityError
from gen_dist.train.footprint import disk_needs, disk_of, disk_short, num_parameters, written_folders
from gen_dist.train.ray_settings import LOCAL_STORE_BYTES

SHARED_MEMORY = Path("/dev/shm")
OBJECTS_BYTES = 64 << 20  # what the workers of a machine are handed through Ray's store, where that stands already
NCCL_BYTES = 1 << 30  # what NVIDIA has its containers started with (--shm-size=1g), for workers of one machine
NO_GPU = "set cluster.use_gpu = false, or name a cluster with GPUs as cluster.address"


@dataclass(frozen=True, kw_only=True)
class Look:
    """At one place that a job names."""

    name: str
    place: Callable[[JobSpec], tuple[str, S3Spec | None]]
    """Its address, and how a store is reached."""
    see: Callable[[JobSpec], None]
    """Raises: GenDistError with what is seen, where, and what to do."""
    ends: bool = False
    """Whether a run would end by it; else it goes on, and loses something."""

    def is_remote(self, job: JobSpec) -> bool:
        """Whether it is at an address that other machines may share, and no folder of theirs."""
        return self.place(job)[0].startswith(("s3://", *SERVED))

    def holds_anywhere(self, job: JobSpec, error: BaseException) -> bool:
        """Whether other machines would see the same: neither rights nor network are in the way.

        The job must say where the store is: the environment of another machine may name another one.
        """
        s3 = self.place(job)[1]
        return s3 is not None and bool(s3.endpoint_url) and isinstance(error, NoBucketError | NoShardsError)


class NoShardsError(GenDistError):
    """Shards that are not there."""


def _write_checkpoints(job: JobSpec) -> None:
    probe(open_store(arithmetic.checkpoints_url(job), job.run.s3, keys=("run.checkpoints", "run.s3")))


def _write_registry(job: JobSpec) -> None:
    if job.registry.store:
        probe(open_store(job.registry.store, job.registry.s3, keys=("registry.store", "registry.s3")))


def _list_shards(job: JobSpec) -> None:
    """Names alone: without an index a run reads the head of each, which takes its time."""
    from gen_dist.data.errors import DataError
    from gen_dist.data.index import list_shards

    data = job.data
    wanted = [(data.url, data.train), (data.url, data.heldout), *((mix.url, mix.train) for mix in data.mix)]
    for url, pattern in wanted:
        if url.startswith("s3://") and pattern:
            try:
                list_shards(open_store(url, data.s3), pattern)
            except DataError as error:
                raise NoShardsError(str(error)) from error


SHARDS = Look(name="shards", place=lambda job: (job.data.url, job.data.s3), see=_list_shards, ends=True)
CHEAP = (
    SHARDS,
    Look(
        name="checkpoints",
        place=lambda job: (arithmetic.checkpoints_url(job), job.run.s3),
        see=_write_checkpoints,
        ends=True,
    ),
    Look(name="registry", place=lambda job: (job.registry.store, job.registry.s3), see=_write_registry),
    Look(
        name="mlflow",
        place=lambda job: (arithmetic.tracking_uri(job), None),
        see=lambda job: check_answers(arithmetic.tracking_uri(job)),
    ),
)
"""All places. A look writes next to nothing, and removes it again."""


def before_launch(job: JobSpec) -> Iterator[str]:
    """Warnings of the driver, one line each, for a job whose samples were found. Raises: CapacityError, StoreError."""
    check_gpus(job)
    yield from ends_early(job, settings_of(job.recipe))
    for look in CHEAP:
        if look is SHARDS:
            continue
        try:
            look.see(job)
        except GenDistError as error:
            if look.ends:
                raise
            yield str(error)
    needs = written_folders(job, num_parameters(job))
    disks = {folder: disk_of(folder) for folder in needs}
    yield from (f"disk: {short}" for disk in disk_needs(needs, disks) if (short := disk_short(*disk)))
    if not job.cluster.address and (short := shared_memory_short(job, free_bytes=shared_memory_bytes(), local=True)):
        yield short


def make_folder(folder: Path) -> None:
    """The folder of a run, made where it is missing. Raises: StoreError where this user may not write there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remedy = "give this user the right to write there, or name another run.folder"
        raise StoreError(f"run.folder: {folder}: {error.strerror or error}; {remedy}", url=str(folder)) from error


def check_gpus(job: JobSpec) -> None:
    """That a local run that wants GPUs has them: Ray would wait for them. Raises: CapacityError."""
    if not job.cluster.use_gpu or job.cluster.address:
        return
    import torch  # of no use to a laptop that sends a job away

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
