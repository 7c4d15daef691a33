"""The loop to compare with: a recipe trained in plain PyTorch, without Ray, DeepSpeed, shards or a way to resume.

Written as one would for speed: the data set decoded in memory, fused AdamW, torch's own random numbers, foreach
averages, and no metrics. The networks and the arithmetic of the losses are the recipe's.

Shapes: N samples, B of them a batch, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Clock, Ctx, Recipe

CPU = torch.device("cpu")


class TorchDraw:
    """`Draw`'s calls, by torch's global generator."""

    def __init__(self, count: int) -> None:
        self.count = count

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return torch.rand(self.count, *shape)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape), standard normal."""
        return torch.randn(self.count, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64 in [0, high)."""
        return torch.randint(high, (self.count, *shape))


class BareLoop:
    """Trains `recipe` on `columns`, by the recipe's names: uint8 images (N, 3, H, W), N captions, labels (N,).

    `weight` (N,) float32 is among them, ones.
    """

    def __init__(self, recipe: Recipe, job: JobSpec, columns: Mapping[str, Any]) -> None:
        self.recipe, self.job, self.columns = recipe, job, columns
        self.batch_images = job.train.global_batch_images
        self.num_samples = len(next(iter(columns.values())))
        self.clock = Clock(images=0, step=0)
        self.nets = recipe.networks()
        self.groups = recipe.groups()
        self.parameters: dict[str, list[Tensor]] = {
            name: [p for net in group.nets for p in self.nets[net].parameters() if p.requires_grad]
            for name, group in self.groups.items()
        }
        self.optimizers = {
            name: torch.optim.AdamW(
                self.parameters[name],
                lr=group.learning_rate,
                betas=group.betas,
                eps=group.eps,
                weight_decay=group.weight_decay,
                fused=True,
            )
            for name, group in self.groups.items()
        }
        self.averages = {
            name: [p.detach().clone() for p in self.parameters[name]]
            for name, group in self.groups.items()
            if group.average and job.train.ema_half_life_images > 0
        }
        self.order = torch.randperm(self.num_samples)
        self.taken = 0

    def _batch(self) -> dict[str, Any]:
        if self.taken + self.batch_images > self.num_samples:
            self.order, self.taken = torch.randperm(self.num_samples), 0
        ids = self.order[self.taken : self.taken + self.batch_images]
        self.taken += self.batch_images
        batch: dict[str, Any] = {}
        for name, column in self.columns.items():
            if not isinstance(column, Tensor):
                batch[name] = [column[sample] for sample in ids.tolist()]
            elif column.dtype == torch.uint8:
                batch[name] = column[ids].float().div_(127.5).sub_(1.0)
            else:
                batch[name] = column[ids]
        return batch

    def step(self) -> None:
        """All phases of one step, on one batch."""
        batch = self._batch()
        scratch: dict[str, Any] = {}
        draw: Any = TorchDraw(self.batch_images)
        for phase in self.recipe.phases(self.clock):
            for name, parameters in self.parameters.items():
                for parameter in parameters:
                    parameter.requires_grad_(name == phase.group)
            ctx = Ctx(nets=self.nets, frozen={}, clock=self.clock, draw=draw, device=CPU, scratch=scratch)
            sum(phase.loss(ctx, batch).values()).backward()  # type: ignore[union-attr]
            self._update(phase.group)
        self.clock = Clock(images=self.clock.images + self.batch_images, step=self.clock.step + 1)

    def _update(self, group: str) -> None:
        parameters, optimizer = self.parameters[group], self.optimizers[group]
        torch.nn.utils.clip_grad_norm_(parameters, self.job.train.clip_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        if group in self.averages:
            beta = 0.5 ** (self.batch_images / self.job.train.ema_half_life_images)
            with torch.no_grad():
                torch._foreach_lerp_(self.averages[group], parameters, 1.0 - beta)
