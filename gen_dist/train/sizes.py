"""The sizes that a run learns at besides its recipe's own: its aspect-ratio buckets, or none."""

from __future__ import annotations

from gen_dist.checkpoint import CheckpointError
from gen_dist.data.buckets import Size, image_sizes
from gen_dist.data.errors import DataError
from gen_dist.data.order import Plan
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Recipe


def bucket_sizes(job: JobSpec, recipe: Recipe) -> list[Size]:
    """(height, width) in pixels of each; empty where the job wants none.

    Raises: DataError where the recipe, as the job sets it, has one size alone.
    """
    if not job.data.aspect_buckets:
        return []
    step_px = getattr(recipe.settings, "size_step_px", 0)
    found = image_sizes(recipe.batch, multiple_px=step_px) if step_px else []
    if not found:
        what = f"data.aspect_buckets: recipe {job.recipe} reads images at one size alone, or none"
        raise DataError(what, remedy="set data.aspect_buckets = false")
    if len(found) == 1:
        height_px, width_px = found[0]
        raise DataError(
            f"data.aspect_buckets: {height_px} x {width_px} px has no other shape of multiples of {step_px} px",
            remedy="raise model.image_px, give the networks fewer resolutions, or set data.aspect_buckets = false",
        )
    return found


def check_kept(plan: Plan, job: JobSpec, *, where: str) -> None:
    """That a run may go on with the buckets that its checkpoint keeps. Raises: CheckpointError."""
    if bool(plan.buckets) != job.data.aspect_buckets:
        then, now = (str(value).lower() for value in (bool(plan.buckets), job.data.aspect_buckets))
        raise CheckpointError(
            f"{where}: written with data.aspect_buckets={then}, the job now says {now}; give the job another name to"
            " start afresh, or put the old value back"
        )
    if plan.buckets and plan.bucket_batch != job.train.global_batch_images:
        raise CheckpointError(
            f"{where}: its aspect-ratio buckets share out batches of {plan.bucket_batch} images, and"
            f" train.global_batch_images is {job.train.global_batch_images}; put {plan.bucket_batch} back, or give the"
            " job another name to start afresh"
        )
