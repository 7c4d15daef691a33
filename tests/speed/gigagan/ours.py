"""Ours: `python -m tests.speed.gigagan.ours TASK`. The recipe's own phases, with captions, in a plain loop.

Channels, the resolutions of attention and the number of kernels are theirs. What a run adds to such a loop is measured
by train-overhead.
"""

from __future__ import annotations

import json
import sys
from unittest import mock

import torch

from gen_dist.job.spec import DataSpec, JobSpec, TrainSpec
from gen_dist.nets.gigagan.sizes import SIZES, Size
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock
from tests.speed.bare_loop import BareLoop
from tests.speed.gigagan.task import IMAGE_PX, Measured, Task, measure, pictures

CAPTIONS = ("red heart", "blue circle", "green square", "yellow star", "a cat", "a dog", "an apple", "a book")
LEVELS = {4: 1, 8: 1, 16: 1, 32: 1}
ATTENTION = {16: 1, 32: 1}


def size_of(task: Task) -> Size:
    """Their widths and depths."""
    return Size(
        style_width=64,
        text_width=64,
        text_layers=1,
        heads=8,
        generator_base=task.generator_channels * IMAGE_PX,
        generator_most=512,
        kernels=dict.fromkeys(LEVELS, 2),
        blocks=LEVELS,
        attention=ATTENTION,
        discriminator_base=task.discriminator_channels * IMAGE_PX,
        discriminator_most=512,
        discriminator_blocks=1,
        discriminator_attention=ATTENTION,
        minibatch_std=True,
    )


def run(task: Task) -> Measured:
    """Phases of a step without the penalty and with it."""
    torch.set_num_threads(task.num_threads)
    torch.manual_seed(0)
    job = JobSpec(
        name="speed",
        recipe="gigagan",
        data=DataSpec(url="embedded://emoji"),
        train=TrainSpec(total_images=1 << 40, global_batch_images=task.batch_images),
    )
    image = ((pictures(task) + 1.0) * 127.5).round().to(torch.uint8)
    captions = [CAPTIONS[number % len(CAPTIONS)] for number in range(task.batch_images)]
    columns = {"image": image, "caption": captions, "weight": torch.ones(task.batch_images)}
    with mock.patch.dict(SIZES, tiny=size_of(task)):  # sizes are named in a job; theirs is none of ours
        recipe = catalog.build("gigagan", {"size": "tiny", "image_px": IMAGE_PX})
        loop = BareLoop(recipe, job, columns)

    def step(penalised: bool) -> None:
        loop.clock = Clock(images=0, step=0 if penalised else 1)
        loop.step()

    counts = [sum(p.numel() for p in loop.parameters[group]) for group in ("generator", "discriminator")]
    return measure(task, step, parameters=(counts[0], counts[1]))


if __name__ == "__main__":
    print(json.dumps(run(Task(**json.loads(sys.argv[1]))).facts()))
