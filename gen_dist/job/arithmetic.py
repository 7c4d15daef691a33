"""The numbers and names that follow from a job: pure functions, nothing derived is stored in the job itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gen_dist.job.spec import JobSpec

BAD_SAMPLES = "bad_samples.jsonl"  # of a run folder: the samples that could not be read


def asked_sizes(job: JobSpec) -> range:
    """Every number of workers that `cluster.num_workers` names, smallest first."""
    workers = job.cluster.num_workers
    smallest, largest = (workers, workers) if isinstance(workers, int) else (workers[0], workers[-1])
    return range(smallest, largest + 1)


def world_sizes(job: JobSpec) -> tuple[int, ...]:
    """Every number of workers that the job may run on, smallest first: of those it names, all that split its batch.

    The smallest it names is always one: load_job refuses a job whose smallest does not split the batch.
    """
    smallest, *larger = asked_sizes(job)
    return (smallest, *(size for size in larger if splits(job, size)))


def splits(job: JobSpec, world_size: int) -> bool:
    """Whether a global batch is a whole number of micro-batches on each of `world_size` workers."""
    return job.train.global_batch_images % (world_size * job.train.micro_batch_images) == 0


def accumulation(job: JobSpec, world_size: int) -> int:
    """Micro-batches that each worker adds up before one optimizer step; workers x micro x this = global batch."""
    if not splits(job, world_size):
        raise ValueError(
            f"train.global_batch_images={job.train.global_batch_images}: not a multiple of {world_size} workers x"
            f" {job.train.micro_batch_images} images; use one of world_sizes(job), checked by load_job"
        )
    return job.train.global_batch_images // (world_size * job.train.micro_batch_images)


def images_per_worker(job: JobSpec, world_size: int) -> int:
    """Images of one step on one worker."""
    return accumulation(job, world_size) * job.train.micro_batch_images


def steps(job: JobSpec) -> int:
    """Steps of the whole run: `total_images` rounded up to whole global batches. Independent of the workers."""
    return -(-job.train.total_images // job.train.global_batch_images)


def images_at_end(job: JobSpec) -> int:
    """Images seen after the last step, at least `total_images`."""
    return steps(job) * job.train.global_batch_images


def due(job: JobSpec, *, images: int, every_images: int) -> bool:
    """Whether what happens every `every_images` happens after the step that ends at `images` images seen.

    It does when the step reached or crossed a multiple, and at the end of the run. 0 means only at the end.
    """
    if images >= images_at_end(job):
        return True
    return every_images > 0 and images // every_images > (images - job.train.global_batch_images) // every_images


def num_due(job: JobSpec, every_images: int) -> int:
    """How many steps of the whole run are `due`."""
    if every_images == 0:
        return 1
    before_end = (steps(job) - 1) * job.train.global_batch_images
    return min(steps(job) - 1, before_end // every_images) + 1


def num_sample_grids(job: JobSpec) -> int:
    """Sample grids that the whole run draws; none where `sample_every_images` is 0."""
    return num_due(job, job.train.sample_every_images) if job.train.sample_every_images else 0


def zero_stage(job: JobSpec, group: str) -> int:
    """ZeRO stage of one group of the recipe: its own, else that of all."""
    return job.train.zero_stages.get(group, job.train.zero_stage)


def engine_stage(job: JobSpec, group: str, world_size: int) -> int:
    """ZeRO stage that a group's engine runs at.

    One worker has nobody to split with, and in fp32 stage 0 spares it copies of all gradients and weights. In bf16 its
    stage stays: DeepSpeed keeps the fp32 weights in one flat tensor from stage 1 on.
    """
    return 0 if world_size == 1 and job.train.precision == "fp32" else zero_stage(job, group)


def run_folder(job: JobSpec) -> str:
    """Folder that this run writes to."""
    return f"{job.run.folder.rstrip('/') or '/'}/{job.name}".replace("//", "/")


def checkpoints_url(job: JobSpec) -> str:
    """Folder or s3:// address below which this run's checkpoints lie, and nothing else."""
    return f"{job.run.checkpoints}/{job.name}" if job.run.checkpoints else f"{run_folder(job)}/checkpoints"


def tracking_uri(job: JobSpec) -> str:
    """Address of the MLflow record: the job's own, else a SQLite file beside the runs."""
    return job.tracking.uri or f"sqlite:///{job.run.folder.rstrip('/')}/mlflow.db"


def registered_model(job: JobSpec) -> str:
    """Name under which the trained model is registered."""
    return job.tracking.registered_model or job.name


def derived(job: JobSpec, zero_max: Mapping[str, int]) -> dict[str, Any]:
    """Everything above in one JSON-able dictionary; `zero_max` holds the recipe's groups."""
    return {
        "steps": steps(job),
        "images_per_step": job.train.global_batch_images,
        "images_at_end": images_at_end(job),
        "accumulation": {str(size): accumulation(job, size) for size in world_sizes(job)},
        "images_per_worker": {str(size): images_per_worker(job, size) for size in world_sizes(job)},
        "zero_stage": {group: zero_stage(job, group) for group in zero_max},
        "num_log_lines": num_due(job, job.train.log_every_images),
        "num_sample_grids": num_sample_grids(job),
        "num_checkpoints": num_due(job, job.train.checkpoint_every_images),
        "run_folder": run_folder(job),
        "checkpoints_url": checkpoints_url(job),
        "tracking_uri": tracking_uri(job),
        "registered_model": registered_model(job),
    }
