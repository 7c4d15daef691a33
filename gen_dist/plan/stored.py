"""What a run reads from storage and writes to it: samples and checkpoints, in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gen_dist.data.source import open_index
from gen_dist.job import arithmetic
from gen_dist.job.shards import shards
from gen_dist.job.spec import JobSpec
from gen_dist.plan.states import FP32, GroupSize
from gen_dist.recipes.contract import Field, Recipe

JPEG_BYTES_PER_PIXEL = 0.25  # of photographs at the usual quality: assumed
CAPTION_BYTES = 200  # assumed
MEMBER_BYTES = 1024  # a tar's header, and its padding to a multiple of 512


@dataclass(frozen=True)
class Storage:
    """Of a whole run."""

    sample_bytes: float
    """One sample as it is stored."""
    sample_bytes_from: str
    """Where that number comes from."""
    read_bytes: float
    """By all workers together, where no cache of theirs spares any."""
    checkpoint_bytes: int
    num_checkpoints: int
    written_bytes: int


def storage(
    job: JobSpec, recipe: Recipe, sizes: Iterable[GroupSize], *, state_bytes: int, sample_bytes: float = 0.0
) -> Storage:
    """`sample_bytes`: as the person says; 0: of the shards where they are on this machine, else assumed."""
    each, origin = (sample_bytes, "given") if sample_bytes else _sample_bytes(job, recipe)
    checkpoint = checkpoint_bytes(job, sizes) + state_bytes
    number = arithmetic.num_due(job, job.train.checkpoint_every_images)
    return Storage(
        sample_bytes=each,
        sample_bytes_from=origin,
        read_bytes=each * arithmetic.images_at_end(job),
        checkpoint_bytes=checkpoint,
        num_checkpoints=number,
        written_bytes=number * checkpoint,
    )


def checkpoint_bytes(job: JobSpec, sizes: Iterable[GroupSize]) -> int:
    """Weights, two moments and the average in fp32, buffers as they are: see gen_dist/train/fragments.py."""
    width = 2 if job.train.precision == "bf16" else 4
    return sum(FP32 * size.total * (4 if size.average else 3) + width * size.fixed for size in sizes)


def _sample_bytes(job: JobSpec, recipe: Recipe) -> tuple[float, str]:
    found = None if job.data.mix or job.data.derived else shards(job.data.url, job.data.train)
    if found:
        num_samples = len(open_index(job.data, pattern=job.data.train))
        if num_samples:
            return sum(found.values()) / num_samples, f"{len(found)} shards of {num_samples} samples"
    return sum(map(_assumed_bytes, recipe.batch.values())), "assumed"


def _assumed_bytes(field: Field) -> float:
    pixels = 1
    for side in field.shape[1:]:
        pixels *= side
    if field.kind == "image":
        return MEMBER_BYTES + JPEG_BYTES_PER_PIXEL * pixels
    if field.kind == "array":
        return MEMBER_BYTES + field.shape[0] * pixels * (2 if field.dtype == "float16" else 4)
    return MEMBER_BYTES + CAPTION_BYTES
