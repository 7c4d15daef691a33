"""A fixed description of an image: coarse colours and edge directions, with nothing learned and nothing downloaded.

Two parts, each of length 1, weigh the same: mean colours on a 16 x 16 grid, and histograms of 8 unsigned gradient
directions on an 8 x 8 grid, weighted by gradient strength (Dalal and Triggs 2005, "Histograms of oriented gradients",
without block normalisation).

Shapes: N images, H x W pixels, D features.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

COLOUR_CELLS = 16
EDGE_CELLS = 8
DIRECTIONS = 8


def describe(images_NHW3: np.ndarray) -> Tensor:
    """uint8 images (N, H, W, 3), H and W at least 16 -> (N, D) float32, each row of length sqrt(2)."""
    pixels_N3HW = torch.from_numpy(images_NHW3).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    colours = F.adaptive_avg_pool2d(pixels_N3HW, COLOUR_CELLS).flatten(1)
    # colours as differences from white, so that an empty margin counts for nothing
    colours = F.normalize(colours - 1.0, dim=1)
    return torch.cat([colours, F.normalize(_edges(pixels_N3HW), dim=1)], dim=1)


def _edges(pixels_N3HW: Tensor) -> Tensor:
    grey_N1HW = pixels_N3HW.mean(dim=1, keepdim=True)
    padded = F.pad(grey_N1HW, (1, 1, 1, 1), mode="replicate")
    right = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    strength = torch.hypot(right, down)
    direction = torch.atan2(down, right).remainder(math.pi) / math.pi * DIRECTIONS
    # each gradient is shared between its two nearest directions, or a small turn would jump from one bin to the next
    lower = direction.floor()
    share = direction - lower
    bins = torch.arange(DIRECTIONS).view(1, -1, 1, 1)
    near, next_one = lower.remainder(DIRECTIONS) == bins, (lower + 1).remainder(DIRECTIONS) == bins
    weights = near * (1.0 - share) + next_one * share
    return F.adaptive_avg_pool2d(weights * strength, EDGE_CELLS).flatten(1).sqrt()
