"""Images at each resolution from the full one down to 4 px: what the generator draws and the discriminator judges.

Shapes: B images, r x r pixels of a level.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

LOWEST_PX = 4


def sides(image_px: int, lowest_px: int = LOWEST_PX) -> list[int]:
    """Resolutions, highest first: [64, 32, 16, 8, 4] of 64."""
    found = [image_px]
    while found[-1] > lowest_px:
        found.append(found[-1] // 2)
    return found


def pyramid(image_B3HW: Tensor, lowest_px: int = LOWEST_PX) -> list[Tensor]:
    """(B, 3, r, r) of each of `sides`: each half as large as the one before, by the mean of 2 x 2 pixels."""
    levels = [image_B3HW]
    while levels[-1].shape[-1] > lowest_px:
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels
