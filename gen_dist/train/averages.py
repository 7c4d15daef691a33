"""Moving averages of the weights beside each rank's fp32 masters: right at any ZeRO stage, no gather per step.

The decay is a half-life in images (Karras et al. 2020, StyleGAN2-ADA, `--ema`), so it keeps its meaning when the batch
changes: beta = 0.5^(batch / half-life). While a group is young the half-life is a twentieth of the images it has
learned from, or the average would remember its random start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gen_dist.train.engines import Engines, GroupEngine
from gen_dist.train.masters import local_masters, num_steps, whole_weights

RAMP_UP = 0.05  # of the images that a group has learned from: StyleGAN2-ADA's ema_rampup


def decay(batch_images: int, *, half_life_images: float, images: float) -> float:
    """beta of one update, after `images` images learned from."""
    half_life = min(half_life_images, images * RAMP_UP)
    return 0.5 ** (batch_images / half_life) if half_life > 0 else 0.0


class Averages:
    """The averages of all groups that want one, updated after each of their steps."""

    def __init__(self, engines: Engines, *, half_life_images: int, batch_images: int) -> None:
        self._engines = engines
        self._half_life_images = half_life_images
        self._batch_images = batch_images
        wanted = [name for name, member in engines.items() if member.group.average and half_life_images > 0]
        self._parts = {name: [part.detach().clone() for part in local_masters(engines[name])] for name in wanted}
        self._steps = {name: num_steps(engines[name]) for name in wanted}

    def update(self, name: str) -> None:
        """Take in the group's weights after a step."""
        if name not in self._parts:
            return
        self._steps[name] += 1
        images = self._steps[name] * self._batch_images
        beta = decay(self._batch_images, half_life_images=self._half_life_images, images=images)
        with torch.no_grad():
            torch._foreach_lerp_(self._parts[name], local_masters(self._engines[name]), 1.0 - beta)

    def whole(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """(name, averaged fp32 weight) of a group; its live weights where it keeps no average. Collective."""
        member = self._engines[name]
        if name not in self._parts:
            yield from whole_weights(member)
            return
        with self._swapped(member):
            yield from whole_weights(member)

    def local(self, name: str) -> list[Tensor]:
        """The averages of this rank's masters, in their order; none where the group keeps no average."""
        return self._parts.get(name, [])

    def resume(self, name: str) -> None:
        """Go on from averages and an engine that were read from a checkpoint."""
        if name in self._parts:
            self._steps[name] = num_steps(self._engines[name])

    @contextmanager
    def _swapped(self, member: GroupEngine) -> Iterator[None]:
        """Within, the masters hold the average: whatever assembles weights then assembles the average."""
        member.before_change()
        masters = local_masters(member)
        live = [master.detach().clone() for master in masters]
        with torch.no_grad():
            torch._foreach_copy_(masters, self._parts[member.name])
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(masters, live)
