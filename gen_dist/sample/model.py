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
from gen_dist.recipes.contract import Clock, Ctx, PromptError, Recipe
from gen_dist.recipes.randomness import Draw
from gen_dist.sample.source import Exported, ModelSource, SourceError

MICRO_BATCH = 32  # images drawn at once
JUDGES = ("clip", "vision", "lpips")  # frozen networks that only training asks, and that no export carries


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
        settings |= {name: "" for name in JUDGES if settings.get(name)}
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
        """From whole weights by `network.parameter`; `frozen` networks are built where they are not given.

        Raises: SourceError where they are of other networks than the settings make.
        """
        nets = recipe.networks()
        for name, net in nets.items():
            prefix = f"{name}."
            state = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            _check_shapes(name, net, state)
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
    def draw(
        self,
        prompts: Sequence[str],
        *,
        seed: int = 0,
        first: int = 0,
        fine: tuple[str, int] | None = None,
        images: np.ndarray | None = None,
    ) -> np.ndarray:
        """(N, H, W, 3) uint8. Image i depends on (seed, first + i) and its prompt, not on its neighbours.

        `fine`: another prompt for all images, and the side in pixels of the level from which on it is the one.
        `images`: what an upsampler enlarges, (N, h, w, 3) uint8. Raises: PromptError where they are missing or of
        another size.
        """
        side = self.recipe.enlarges_px
        if side and (images is None or images.shape[1:3] != (side, side)):
            seen = "nothing to enlarge" if images is None else f"images of {images.shape[2]} x {images.shape[1]} px"
            raise PromptError(
                f"{seen}, for an upsampler of {side} px to {self.recipe.settings.image_px} px; write gen-dist sample"
                f" BASE PROMPT --upsampler MODEL, where BASE draws {side} px"
            )
        parts = []
        for start in range(0, len(prompts), MICRO_BATCH):
            some = prompts[start : start + MICRO_BATCH]
            ctx = self.context(seed=seed, first=first + start, count=len(some))
            conditions = self.recipe.conditions(some)
            if fine is not None:
                conditions |= self.recipe.finer([fine[0]] * len(some), fine[1])
            if side and images is not None:
                conditions["image"] = from_uint8(images[start : start + MICRO_BATCH]).to(self.device)
            parts.append(to_uint8(self.recipe.sample(ctx, conditions, len(some))))
        return np.concatenate(parts)


def from_uint8(images_NHW3: np.ndarray) -> Tensor:
    """What `to_uint8` gave, as (N, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images_NHW3).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def _check_shapes(name: str, net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raises: SourceError. Torch would name all tensors that differ, on as many lines."""
    made = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    odd = [key for key in made | given if made.get(key) != given.get(key)]
    if odd:
        shapes = " and ".join(
            f"{shapes.get(odd[0], 'missing')} {where}" for shapes, where in ((given, "in the weights"), (made, "here"))
        )
        raise SourceError(
            f"{name}.{odd[0]}: {shapes} ({len(odd)} of {len(made | given)} tensors differ); load them with the settings"
            " and the text_encoder that they were trained with"
        )


def to_uint8(image_N3HW: Tensor) -> np.ndarray:
    """[-1, 1] float images (N, 3, H, W) as (N, H, W, 3) uint8."""
    scaled = ((image_N3HW.float() + 1.0) * 127.5).round().clamp(0, 255)
    return scaled.to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
