"""The micro-batches of one worker, read ahead, on its device; which ones they are is a function of the clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from gen_dist.data.sequential import SequentialStream
from gen_dist.data.stream import Stream
from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.train.ledger import Ledger

AHEAD = 4  # micro-batches read before they are needed

MicroBatch = tuple[int, dict[str, Any]]
"""Global position of its first sample, and the batch, whose images are bytes still: see `as_floats`."""


def images_of_step(recipe: Recipe, clock: Clock, batch_images: int) -> int:
    """Images that the step at `clock` learns from: one global batch, and one more for each fresh phase."""
    return batch_images * (1 + sum(phase.fresh for phase in recipe.phases(clock)))


def own_positions(
    recipe: Recipe, clock: Clock, *, job: JobSpec, rank: int, world_size: int, shift: int = 0
) -> Iterator[tuple[int, int]]:
    """(position, count) of each micro-batch of one worker, from the clock to the end of the run.

    `shift`: positions that the run has passed over; without any, a position is the images seen before it.

    Micro-batch a of worker r is part a * workers + r of the global batch, so that its parts are the same samples with
    the same random numbers at every number of workers.
    """
    size = job.train.micro_batch_images
    parts = arithmetic.accumulation(job, world_size)
    while clock.images < arithmetic.images_at_end(job):
        images = images_of_step(recipe, clock, job.train.global_batch_images)
        for first in range(clock.images, clock.images + images, job.train.global_batch_images):
            for part in range(parts):
                yield first + shift + (part * world_size + rank) * size, size
        clock = Clock(images=clock.images + images, step=clock.step + 1)


class Feed:
    """Global batches as this worker's micro-batches, in the order in which the steps ask for them."""

    def __init__(
        self,
        stream: Stream | SequentialStream,
        recipe: Recipe,
        clock: Clock,
        ledger: Ledger,
        *,
        job: JobSpec,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self._device, self._stream, self._ledger = device, stream, ledger
        self._parts = arithmetic.accumulation(job, world_size)
        positions = own_positions(recipe, clock, job=job, rank=rank, world_size=world_size, shift=ledger.shift)
        self._ahead = stream.prefetch(positions, depth=AHEAD)
        self.waited_s = 0.0
        """Time that `take` stood still, since the start."""

    def take(self) -> list[MicroBatch]:
        """This worker's micro-batches of the next global batch."""
        return [self._one() for _ in range(self._parts)]

    def metrics(self) -> dict[str, float]:
        """What this worker's stream did so far, see `Stream.metrics`."""
        return self._stream.metrics()

    def _one(self) -> MicroBatch:
        asked_s = time.perf_counter()
        position, batch = next(self._ahead)
        self.waited_s += time.perf_counter() - asked_s
        self._ledger.took(batch)
        return position, _moved(batch, self._device)


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What a recipe is given of a batch of a stream, on the device."""
    return as_floats(_moved(batch, device))


def as_floats(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Images from uint8 to float32 in [-1, 1]; all else as it is.

    A step makes them of one micro-batch at a time: those of all of them would be four times the bytes.
    """
    floats = dict(batch)
    for name, value in batch.items():
        if isinstance(value, torch.Tensor) and value.dtype == torch.uint8:
            # as (B, H, W, 3) in memory; the networks want (B, 3, H, W)
            floats[name] = value.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1.0)
    return floats


def _moved(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Captions stay with the processor."""
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
