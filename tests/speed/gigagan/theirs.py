"""gigagan-pytorch 0.3.0: `python -m tests.speed.gigagan.theirs TASK` in the peers' environment.

Unconditional, as its README first shows it: neither its text encoder nor the losses that need CLIP are there.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import tempfile

import torch
from gigagan_pytorch import GigaGAN

from tests.speed.gigagan.task import IMAGE_PX, Measured, Task, measure, pictures


def run(task: Task) -> Measured:
    """Its own steps of training, on the CPU."""
    torch.set_num_threads(task.num_threads)
    torch.manual_seed(0)
    gan = GigaGAN(
        generator={
            "dim_capacity": task.generator_channels // 2,  # it doubles them before the first layer
            "dim_latent": task.start_channels,
            "style_network": {"dim": 64, "depth": 4},
            "image_size": IMAGE_PX,
            "dim_max": 512,
            "num_skip_layers_excite": 4,
            "unconditional": True,
        },
        discriminator={
            "dim_capacity": task.discriminator_channels // 2,
            "dim_max": 512,
            "image_size": IMAGE_PX,
            "num_skip_layers_excite": 4,
            "unconditional": True,
        },
        accelerate_kwargs={"cpu": True},
    )
    images = itertools.repeat(pictures(task))

    def step(penalised: bool) -> None:
        # a copy for each step: it asks a batch for gradients
        batches = (image.clone() for image in images)
        gan.train_discriminator_step(batches, apply_gradient_penalty=penalised)
        gan.train_generator_step(dl_iter=batches, batch_size=task.batch_images)

    nets = [sum(p.numel() for p in net.parameters()) for net in (gan.G, gan.D)]
    return measure(task, step, parameters=(nets[0], nets[1]))


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # it makes folders for models and samples where it is
        found = run(Task(**told))
    print(json.dumps(found.facts()))
