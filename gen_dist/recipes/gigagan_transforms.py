"""Random transforms that a pyramid of images goes through as one: what the discriminator sees of a small data set.

Karras et al. 2020, "Training generative adversarial networks with limited data", appendix B, with their strengths but
for rotations, which are small here. Each kind is applied to an image with the probability p by itself. All levels of a
pyramid are transformed alike, in coordinates of [-1, 1], and what leaves the image comes back mirrored.

The R1 penalty is of images as they are, so that nothing here is differentiated twice.

Shapes: B images, r x r pixels of a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from gen_dist.recipes.randomness import Draw

GREATEST_SHIFT = 0.125  # of the side, in whole pixels of the finest level
SCALE_STD, CONTRAST_STD, SATURATION_STD = 0.2, 0.5, 1.0  # of the logarithm to base 2
ROTATION_STD = math.radians(5.0)
BRIGHTNESS_STD = 0.2  # for pixels in [-1, 1]


@dataclass(frozen=True)
class Transform:
    """One for each image."""

    place: Tensor
    """(B, 3, 3) of homogeneous coordinates: from where a pixel comes."""
    is_moved: Tensor
    colour: Tensor
    """(B, 4, 4) of homogeneous colours."""
    is_coloured: Tensor

    @staticmethod
    def joined(parts: Sequence[Transform]) -> Transform:
        """Of batches that lie behind each other."""
        return Transform(*(torch.cat([getattr(part, one.name) for part in parts]) for one in fields(Transform)))

    def __call__(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """The levels (B, 3, r, r), each transformed alike; to the bit as they are where nothing is applied."""
        return [self._coloured(self._moved(image)) for image in pyramid]

    def _moved(self, image: Tensor) -> Tensor:
        grid = F.affine_grid(self.place[:, :2], list(image.shape), align_corners=False)
        moved = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
        return torch.where(self.is_moved[:, None, None, None], moved, image)

    def _coloured(self, image: Tensor) -> Tensor:
        mixed = torch.einsum("bij,bjhw->bihw", self.colour[:, :3, :3], image) + self.colour[:, :3, 3, None, None]
        return torch.where(self.is_coloured[:, None, None, None], mixed, image)


def transform(draw: Draw, kinds: Sequence[str], probability: Tensor | float, *, image_px: int) -> Transform:
    """Of the samples of `draw`; `kinds` of `PLACES` and `COLOURS`, `image_px`: the side of the finest level."""
    place, is_moved = _combined(PLACES, 3, draw, kinds, probability, image_px)
    colour, is_coloured = _combined(COLOURS, 4, draw, kinds, probability, image_px)
    return Transform(place, is_moved, colour, is_coloured)


Kind = Callable[[Draw, int], Tensor]
"""Matrices (B, n, n), drawn."""


def _combined(
    known: Mapping[str, Kind], size: int, draw: Draw, kinds: Sequence[str], probability: Tensor | float, image_px: int
) -> tuple[Tensor, Tensor]:
    """The product of the matrices of all kinds, and (B,) whether it is any."""
    none_Bnn = torch.eye(size, device=draw.device).repeat(draw.count, 1, 1)
    product_Bnn, any_B = none_Bnn, torch.zeros(draw.count, dtype=torch.bool, device=draw.device)
    for name, kind in known.items():
        if name in kinds:
            is_applied_B = draw.uniform() < probability
            matrix_Bnn = torch.where(is_applied_B[:, None, None], kind(draw, image_px), none_Bnn)
            product_Bnn, any_B = product_Bnn @ matrix_Bnn, any_B | is_applied_B
    return product_Bnn, any_B


def _diagonal(*factors_B: Tensor) -> Tensor:
    return torch.stack(factors_B, dim=1).diag_embed()


def _flip(draw: Draw, image_px: int) -> Tensor:
    one_B = torch.ones(draw.count, device=draw.device)
    return _diagonal(-one_B, one_B, one_B)


def _translate(draw: Draw, image_px: int) -> Tensor:
    shift_px = ((2.0 * draw.uniform(2) - 1.0) * GREATEST_SHIFT * image_px).round()
    matrix_B33 = torch.eye(3, device=draw.device).repeat(draw.count, 1, 1)
    matrix_B33[:, :2, 2] = 2.0 * shift_px / image_px
    return matrix_B33


def _scale(draw: Draw, image_px: int) -> Tensor:
    inverse_B = torch.exp2(-SCALE_STD * draw.normal())
    return _diagonal(inverse_B, inverse_B, torch.ones_like(inverse_B))


def _rotate(draw: Draw, image_px: int) -> Tensor:
    angle_B = ROTATION_STD * draw.normal()
    cos, sin, none = angle_B.cos(), angle_B.sin(), torch.zeros_like(angle_B)
    rows = [cos, -sin, none, sin, cos, none, none, none, none + 1.0]
    return torch.stack(rows, dim=1).unflatten(1, (3, 3))


def _brightness(draw: Draw, image_px: int) -> Tensor:
    matrix_B44 = torch.eye(4, device=draw.device).repeat(draw.count, 1, 1)
    matrix_B44[:, :3, 3] = BRIGHTNESS_STD * draw.normal(1)
    return matrix_B44


def _contrast(draw: Draw, image_px: int) -> Tensor:
    factor_B = torch.exp2(CONTRAST_STD * draw.normal())
    return _diagonal(factor_B, factor_B, factor_B, torch.ones_like(factor_B))


def _grey(device: torch.device) -> Tensor:
    """(4, 4): what is grey in a colour."""
    return F.pad(torch.full((3, 3), 1.0 / 3.0, device=device), (0, 1, 0, 1))


def _saturation(draw: Draw, image_px: int) -> Tensor:
    factor_B11 = torch.exp2(SATURATION_STD * draw.normal(1, 1))
    grey, colours = _grey(draw.device), torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0], device=draw.device))
    last = torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0], device=draw.device))
    return grey + factor_B11 * (colours - grey) + last


def _hue(draw: Draw, image_px: int) -> Tensor:
    """Rodrigues' rotation about the axis of greys."""
    angle_B11 = 2.0 * math.pi * draw.uniform(1, 1)
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=draw.device) / math.sqrt(3.0)
    one = torch.eye(3, device=draw.device)
    turned_B33 = one + angle_B11.sin() * across + (1.0 - angle_B11.cos()) * (across @ across)
    return F.pad(turned_B33, (0, 1, 0, 1)) + torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0], device=draw.device))


PLACES: dict[str, Kind] = {"flip": _flip, "translate": _translate, "scale": _scale, "rotate": _rotate}
COLOURS: dict[str, Kind] = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}
