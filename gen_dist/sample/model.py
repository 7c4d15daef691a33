"""A model that draws: a recipe with the weights of a checkpoint, an exported model, or a run in progress.

Shapes: N prompts, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Ctx, Recipe
from gen_dist.recipes.randomness import Draw
from gen_dist.sample.source import Exported, ModelSource

MICRO_BATCH = 32  # images drawn at once


class Model:
    """Networks on one device, in evaluation mode, behind `draw`."""

    def __init__(
        self,
        recipe: Recipe,
        nets: Mapping[str, nn.Module],
        frozen: Mapping[str, Callable[..., Any]],
        device: torch.device,
    ) -> None:
        self.recipe = recipe
        self._nets = nets
        self._frozen = frozen
        self.device = device

    @classmethod
    def load(cls, source: ModelSource | Path, *, device: torch.device | str = "cpu") -> Model:
        """From what `find_model` found, or the folder of an exported model. Raises: SourceError, CheckpointError."""
        if isinstance(source, Path):
            source = Exported(source)
        settings = dict(source.facts.job["model"])
        for name in ("text_encoder", "autoencoder"):  # an export carries them, and they may have left their first place
            carried = source.carried(name) if settings.get(name) else None
            if carried is not None:
                settings[name] = str(carried)
        recipe = catalog.build(source.facts.job["recipe"], settings)
        recipe.load_state_dict(source.recipe_state())
        return cls.from_weights(recipe, source.weights(), device=torch.device(device))

    @classmethod
    def from_weights(
        cls,
        recipe: Recipe,
        weights: Mapping[str, Tensor],
        *,
        device: torch.device,
        frozen: Mapping[str, Callable[..., Any]] | None = None,
    ) -> Model:
        """From whole weights by `network.parameter`; `frozen` networks are built where they are not given."""
        nets = recipe.networks()
        for name, net in nets.items():
            prefix = f"{name}."
            state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            net.load_state_dict(state)
            net.to(device).eval().requires_grad_(False)
        if frozen is None:
            frozen = {name: net.to(device).eval() for name, net in recipe.frozen().items()}
        return cls(recipe, nets, frozen, device)

    def context(self, *, seed: int, first: int, count: int) -> Ctx:
        """What the recipe's `sample` and `evaluate` see."""
        draw = Draw(seed=seed, first=first, count=count, device=self.device)
        return Ctx(nets=self._nets, frozen=self._frozen, clock=Clock(0, 0), draw=draw, device=self.device)

    @torch.no_grad()
    def draw(self, prompts: Sequence[str], *, seed: int = 0, first: int = 0) -> np.ndarray:
        """(N, H, W, 3) uint8. Image i depends on (seed, first + i) and its prompt, not on its neighbours."""
        parts = []
        for start in range(0, len(prompts), MICRO_BATCH):
            some = prompts[start : start + MICRO_BATCH]
            ctx = self.context(seed=seed, first=first + start, count=len(some))
            parts.append(to_uint8(self.recipe.sample(ctx, self.recipe.conditions(some), len(some))))
        return np.concatenate(parts)


def to_uint8(image_N3HW: Tensor) -> np.ndarray:
    """[-1, 1] float images (N, 3, H, W) as (N, H, W, 3) uint8."""
    scaled = ((image_N3HW.float() + 1.0) * 127.5).round().clamp(0, 255)
    return scaled.to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
