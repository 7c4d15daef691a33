"""Layers whose weights start as N(0, 1) and are scaled in use: the optimizer's rate is then relative to each weight.

Equalised learning rates (Karras et al. 2018, "Progressive growing of GANs", section 4.1). GigaGAN's rate of 0.0025
means this; with weights of their usual size it would be far too much for the wide layers.

Shapes: B images, I channels in, O channels out, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2  # of the leaky ReLU below zero
CORNER = 0.3  # half the width of the round corner


class EqualLinear(nn.Module):
    """(..., I) -> (..., O)."""

    def __init__(self, inputs: int, outputs: int, *, start: float | None = 0.0, rate: float = 1.0) -> None:
        """`start`: of the bias, None where there is none; the layer learns at `rate` times the optimizer's rate."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = None if start is None else nn.Parameter(torch.full((outputs,), start / rate))
        self._gain, self._rate = rate / math.sqrt(inputs), rate

    def forward(self, x: Tensor) -> Tensor:
        """x W^T + b."""
        bias = None if self.bias is None else self.bias * self._rate
        return F.linear(x, self.weight * self._gain, bias)


class EqualConv2d(nn.Module):
    """(B, I, H, W) -> (B, O, H / stride, W / stride)."""

    def __init__(
        self, inputs: int, outputs: int, side_px: int = 1, *, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, side_px, side_px))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self._gain = 1.0 / math.sqrt(inputs * side_px**2)
        self._stride, self._padding = stride, padding

    def forward(self, x_BIHW: Tensor) -> Tensor:
        """Cross-correlation."""
        return F.conv2d(x_BIHW, self.weight * self._gain, self.bias, stride=self._stride, padding=self._padding)


Activation = Callable[[Tensor], Tensor]


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU times sqrt(2), which keeps the second moment of what is N(0, 1)."""
    return F.leaky_relu(x, SLOPE) * math.sqrt(2.0)


def rounded(x: Tensor) -> Tensor:
    """`leaky` with a round corner: two runs whose sums are split differently stay as close as their rounding.

    With the sharp one, a number that is 0 but for rounding takes the other slope now and then, and moves a gradient by
    1e-4 of its size: no comparison of two trainings would be finer than that.
    """
    bent = torch.sqrt(x.square() + CORNER**2) - CORNER
    return (0.5 * (1.0 + SLOPE) * x + 0.5 * (1.0 - SLOPE) * bent) * math.sqrt(2.0)


def unit_rms(x: Tensor, dim: int) -> Tensor:
    """Divided by its root mean square along `dim` (Karras et al. 2018, section 4.2)."""
    return x * torch.rsqrt(x.square().mean(dim, keepdim=True) + 1e-8)
