"""Which part of an image is shown, and whether it is mirrored: a pure function of the seed and the global position.

A resumed run, or one on another number of workers or another platform, cuts and mirrors every sample as before.
The bits are those of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators",
figure 16) in wrapping uint64 arithmetic.

Shapes: B samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from gen_dist.data.errors import DataError

Box = tuple[float, float, float, float]
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: SplitMix64's increment
_LOW_64 = (1 << 64) - 1
# Sets these bits apart from a recipe's noise and from the order, which are keyed by the same seed.
_PURPOSE = int.from_bytes(b"augments", "big")
_NUM_DRAWS = 4  # scale, across, down, flip


class Crop(NamedTuple):
    """The part of one image that fills the wanted shape: the largest box of that aspect, times `scale`."""

    scale: float = 1.0
    """Of the largest box, in (0, 1]."""
    across: float = 0.5
    """Share of the free width that is left of the box, in [0, 1)."""
    down: float = 0.5
    """Share of the free height that is above the box, in [0, 1)."""
    flip: bool = False
    """Mirror left and right."""

    def box(self, from_width_px: int, from_height_px: int, *, width_px: int, height_px: int) -> Box:
        """(left, top, right, bottom) in pixels of an upright image, inside it, of the aspect width_px : height_px."""
        factor = min(from_width_px / width_px, from_height_px / height_px) * self.scale
        box_width, box_height = min(width_px * factor, from_width_px), min(height_px * factor, from_height_px)
        free_width, free_height = from_width_px - box_width, from_height_px - box_height
        if factor == 1.0:  # nothing is resized: a start between two pixels would only blur
            left, top = float(int(self.across * (free_width + 1))), float(int(self.down * (free_height + 1)))
        else:
            left, top = self.across * free_width, self.down * free_height
        return left, top, min(left + box_width, from_width_px), min(top + box_height, from_height_px)


CENTRE = Crop()


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What may be drawn for a sample. The default draws nothing: the largest centred box, not mirrored."""

    crop: Literal["centre", "random"] = "centre"
    """`random`: the largest box times a scale uniform in [min_scale, 1], at a uniform place."""
    min_scale: float = 1.0
    """Smallest side of a random box as a share of the largest box's, in (0, 1]. 1: only the place is drawn."""
    flip: bool = False
    """Mirror left and right with probability 1/2."""

    def __post_init__(self) -> None:
        if self.crop not in ("centre", "random"):
            raise DataError(f"crop {self.crop!r}", remedy="use 'centre' or 'random'")
        if not 0.0 < self.min_scale <= 1.0:
            raise DataError(f"min_scale {self.min_scale}", remedy="use a share of the largest box, above 0 and up to 1")
        if self.crop == "centre" and self.min_scale != 1.0:
            raise DataError(f"min_scale {self.min_scale} with crop 'centre'", remedy="set crop to 'random'")


@dataclass(frozen=True)
class Augmentations:
    """What was drawn for B samples; `[row]` is the crop of one."""

    scale: np.ndarray
    """(B,) float64 in [min_scale, 1]."""
    across: np.ndarray
    """(B,) float64 in [0, 1)."""
    down: np.ndarray
    """(B,) float64 in [0, 1)."""
    flip: np.ndarray
    """(B,) bool."""

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, row: int) -> Crop:
        return Crop(float(self.scale[row]), float(self.across[row]), float(self.down[row]), bool(self.flip[row]))


def augmentations(seed: int, positions: np.ndarray, augment: Augment) -> Augmentations:
    """The draws for the samples at `positions` (B,) int64, which count on through the epochs of a run."""
    bits_BE = _bits(seed, positions)
    share_BE = (bits_BE >> np.uint64(11)) * 2.0**-53  # 53 bits: exact in float64, never 1
    num_rows = len(positions)
    if augment.crop == "random":
        scale, across, down = 1.0 - (1.0 - augment.min_scale) * share_BE[:, 0], share_BE[:, 1], share_BE[:, 2]
    else:
        scale, across, down = np.ones(num_rows), np.full(num_rows, 0.5), np.full(num_rows, 0.5)
    flip = share_BE[:, 3] < 0.5 if augment.flip else np.zeros(num_rows, bool)
    return Augmentations(scale, across, down, flip)


def _bits(seed: int, positions: np.ndarray) -> np.ndarray:
    """(B, _NUM_DRAWS) uint64 of 64 random bits each."""
    run = _mix(np.array([(seed * _GOLDEN + _PURPOSE) & _LOW_64], dtype=np.uint64))
    key_B = _mix(run ^ _mix(np.asarray(positions, dtype=np.int64).astype(np.uint64) * np.uint64(_GOLDEN)))
    element_E = np.arange(1, _NUM_DRAWS + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return _mix(key_B[:, None] + element_E)


def _mix(bits: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer, element by element; uint64 in, uint64 out."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
