"""Running mean and deviation by channel of what a network gives, equal on all workers.

Shapes: B samples, c channels, h x w positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

RATE = 0.02  # of a step's moments taken in


class ChannelMoments:
    """They move once a step, by the whole batch, so that they are the same at every number of workers."""

    def __init__(self, num_channels: int) -> None:
        self._mean_c, self._square_c = torch.zeros(num_channels), torch.ones(num_channels)
        self._unfolded: list[Tensor] = []  # (3, c) of each micro-batch of one step
        self._unfolded_step = 0

    def watch(self, value: Tensor, weight_B: Tensor, *, step: int, mean: Callable[[Tensor], Tensor]) -> None:
        """Take in (B, c, h, w) of a micro-batch; `mean` is that over all workers. Collective.

        With the first and second moment goes the share of samples that they are of: grey slots have no part in them.
        """
        if step != self._unfolded_step:
            self._fold()
            self._unfolded_step = step
        weight = weight_B[:, None, None, None]
        parts = [weight * value, weight * value.square(), weight.expand_as(value)]
        self._unfolded.append(mean(torch.stack([part.mean((0, 2, 3)) for part in parts])))

    def scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each (c, 1, 1)."""
        self._fold()
        std_c = (self._square_c - self._mean_c.square()).clamp(min=1e-8).sqrt()
        return self._mean_c[:, None, None].to(device), std_c[:, None, None].to(device)

    def state_dict(self) -> dict[str, Tensor]:
        """mean (c,) and square (c,)."""
        self._fold()
        return {"mean": self._mean_c, "square": self._square_c}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave."""
        self._mean_c, self._square_c = state["mean"], state["square"]
        self._unfolded = []

    def _fold(self) -> None:
        """Take the moments of a finished step in."""
        if self._unfolded:
            mean_c, square_c, share_c = torch.stack(self._unfolded).mean(0).cpu()
            if share_c.any():  # else nothing of this step could be read
                self._mean_c = torch.lerp(self._mean_c, mean_c / share_c, RATE)
                self._square_c = torch.lerp(self._square_c, square_c / share_c, RATE)
            self._unfolded = []
