"""Recipes with what none of the catalog has: gradients carried into a next phase, fresh batches, decay; bad steps;
a gradient penalty that nobody announced.

Shapes: B images, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from gen_dist.job.spec import Spec
from gen_dist.recipes.contract import Batch, Clock, Ctx, Field, Group, Losses, Phase, Recipe, mean

SIDE_PX = 8


class Settings(Spec):
    """None."""

    zero_max: ClassVar[dict[str, int]] = {"all": 3}


class OneGroup(Recipe):
    """An autoencoder that removes noise. `smooth` adds its gradient to `clean`; every other step has an `again`."""

    settings: Settings

    @property
    def batch(self) -> Mapping[str, Field]:
        """Images."""
        return {"image": Field("image", (3, SIDE_PX, SIDE_PX))}

    def networks(self) -> dict[str, nn.Module]:
        """down, up."""
        return {
            "down": nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), nn.SiLU()),
            "up": nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.SiLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1)),
        }

    def groups(self) -> dict[str, Group]:
        """One, of both. Its first and last parameters decay at one rate, those in the middle at another."""
        decays = {"weight_decay": 0.1, "weight_decays": {"down": 0.3, "2": 0.3}}
        return {"all": Group(("down", "up"), 1e-3, betas=(0.9, 0.99), **decays)}

    def phases(self, clock: Clock) -> Sequence[Phase]:
        """Two of them make one step together."""
        together = (Phase("smooth", "all", self._smooth, step=False), Phase("clean", "all", self._clean))
        return (*together, Phase("again", "all", self._clean, fresh=True)) if clock.step % 2 else together

    def _clean(self, ctx: Ctx, batch: Batch) -> Losses:
        image = batch["image"]
        noisy = image + 0.5 * ctx.draw.normal(*image.shape[1:])
        return {"error": mean((ctx.nets["up"](ctx.nets["down"](noisy)) - image).square(), batch["weight"])}

    def _smooth(self, ctx: Ctx, batch: Batch) -> Losses:
        return {"size": 0.1 * mean(ctx.nets["down"](batch["image"]).square(), batch["weight"])}

    @torch.no_grad()
    def sample(self, ctx: Ctx, conditions: Batch, count: int) -> Tensor:
        """Cleaned noise."""
        noise = ctx.draw.normal(3, SIDE_PX, SIDE_PX)
        return ctx.nets["up"](ctx.nets["down"](noise)).clamp(-1.0, 1.0)


NAN_STEPS, INF_STEP, SPIKE_STEP = (3, 4), 7, 19
BAD_SAMPLE = 5  # of a global batch: rank 1 of two has it, in its first micro-batch of 4


class BadSteps(OneGroup):
    """OneGroup, where the loss on one sample of some steps is no number, infinite with a finite gradient, or huge."""

    def _clean(self, ctx: Ctx, batch: Batch) -> Losses:
        losses, step = super()._clean(ctx, batch), ctx.clock.step
        images = batch["image"]
        first = int(ctx.draw._position_B[0]) - ctx.clock.images
        if BAD_SAMPLE not in range(first, first + len(images)):
            return losses
        if step in NAN_STEPS:
            losses["error"] = losses["error"] * math.nan
        elif step == INF_STEP:
            losses["error"] = losses["error"] + math.inf
        elif step == SPIKE_STEP:
            losses["error"] = losses["error"] * 1e4
        return losses


class Penalty(OneGroup):
    """OneGroup with a gradient penalty, though its settings allow ZeRO-3."""

    def _smooth(self, ctx: Ctx, batch: Batch) -> Losses:
        image = batch["image"].detach().requires_grad_()
        found = ctx.nets["down"](image).square().sum()
        (gradient,) = torch.autograd.grad(found, image, create_graph=True)
        return {"penalty": 0.1 * mean(gradient.square(), batch["weight"])}
