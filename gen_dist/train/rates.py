"""The learning rate of a group at any point of a run: a pure function of images seen."""

from __future__ import annotations

import math

from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Group


def learning_rate(group: Group, *, job: JobSpec, images: int) -> float:
    """Linear warm-up over `train.warmup_images`, then constant or a half cosine to 0, within the group's own span."""
    start, end = group.span_images
    end = arithmetic.images_at_end(job) if end is None else end
    seen = max(0, images - start)
    # the batch being learned from counts, so that the first step is not one of rate 0
    warm = min(1.0, (seen + job.train.global_batch_images) / max(1, job.train.warmup_images))
    if job.train.schedule == "constant":
        return group.learning_rate * warm
    done = min(1.0, seen / max(1, end - start))
    return group.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * done))
