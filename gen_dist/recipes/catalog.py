"""RECIPES: every recipe by name. Adding one is its file and one line here."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen_dist.recipes.contract import Recipe

# `gen-dist check` reads this table from the source, so it stays a plain dictionary of texts.
RECIPES: dict[str, str] = {
    "latent_diffusion": "gen_dist.recipes.latent_diffusion:LatentDiffusion",
    "dcgan": "gen_dist.recipes.dcgan:DCGAN",
    "gigagan": "gen_dist.recipes.gigagan:GigaGAN",
    "gigagan_upsampler": "gen_dist.recipes.gigagan_upsampler:GigaGANUpsampler",
    "ddpm": "gen_dist.recipes.ddpm:DDPM",
}


def build(name: str, settings: Mapping[str, Any]) -> Recipe:
    """The recipe `name` with `settings` of a resolved job. Imports torch."""
    path, _, cls = RECIPES[name].partition(":")
    module = importlib.import_module(path)
    return getattr(module, cls)(module.Settings.model_validate(dict(settings)))
