"""What the process that ranks are forked from has imported. It starts no thread and touches no device."""

import importlib

from gen_dist.train.process import load_deepspeed

load_deepspeed()
for name in (
    "gen_dist.checkpoint",
    "gen_dist.recipes.ddpm",
    "gen_dist.train.loop",
    "gen_dist.train.recovery",
    "gen_dist.train.studio",
    "diffusers.models.autoencoders.vae",
    "diffusers.models.unets.unet_2d_condition",
):
    importlib.import_module(name)
