"""One image that its caption describes completely: a coloured shape at a place on a background.

Size, exact place, shade and turn of a shape vary, and no word says how: a model must draw what the words say, and may
choose the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {"red": (215, 40, 45), "green": (45, 165, 70), "blue": (45, 85, 210), "yellow": (240, 200, 40)}
SHAPES = {"circle": 0, "square": 4, "triangle": 3}
"""Corners of each; none is a disc."""
POSITIONS = {
    "top left": (0.29, 0.29),
    "top right": (0.71, 0.29),
    "bottom left": (0.29, 0.71),
    "bottom right": (0.71, 0.71),
}
"""Middle of each, from the left and from the top, as shares of the side."""
BACKGROUNDS = {"white": (245, 245, 245), "grey": (128, 128, 128), "black": (20, 20, 20)}

ATTRIBUTES = {
    "colour": tuple(COLOURS),
    "shape": tuple(SHAPES),
    "position": tuple(POSITIONS),
    "background": tuple(BACKGROUNDS),
}
"""The values of each attribute, in the order of their numbers."""

RADIUS, RADIUS_SPREAD = 0.19, 0.035  # shares of the side: the largest shape stays in its quarter, clear of the edges
PLACE_SPREAD = 0.04
SHADE_SPREAD = 18  # of 255
TURN_SPREAD = math.radians(12.0)
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Scene:
    """What the caption says, each value a key of its table above."""

    colour: str
    shape: str
    position: str
    background: str

    @property
    def caption(self) -> str:
        return f"a {self.colour} {self.shape} at the {self.position} on {self.background}"

    @property
    def labels(self) -> dict[str, int]:
        """The number of each value in `ATTRIBUTES`."""
        return {name: values.index(getattr(self, name)) for name, values in ATTRIBUTES.items()}


def pick(random: np.random.Generator) -> Scene:
    """One of all scenes, each as likely."""
    return Scene(**{name: values[int(random.integers(len(values)))] for name, values in ATTRIBUTES.items()})


def draw(scene: Scene, random: np.random.Generator, *, side_px: int) -> Image.Image:
    """An RGB image of `side_px` x `side_px` pixels; what the scene leaves open is drawn from `random`."""
    side = side_px * SUPERSAMPLING
    across, down = (share + random.uniform(-PLACE_SPREAD, PLACE_SPREAD) for share in POSITIONS[scene.position])
    radius = side * (RADIUS + random.uniform(-RADIUS_SPREAD, RADIUS_SPREAD))
    turn = random.uniform(-TURN_SPREAD, TURN_SPREAD)
    image = Image.new("RGB", (side, side), _shade(BACKGROUNDS[scene.background], random, channels=1))
    fill = _shade(COLOURS[scene.colour], random, channels=3)
    middle = (side * across, side * down)
    corners = SHAPES[scene.shape]
    if corners:
        # a square stands on a side, a triangle too: half a corner's angle from the top for the one, none for the other
        start = turn - math.pi / 2 + (math.pi / 4 if corners == 4 else 0.0)
        angles = [start + 2 * math.pi * corner / corners for corner in range(corners)]
        points = [(middle[0] + radius * math.cos(angle), middle[1] + radius * math.sin(angle)) for angle in angles]
        ImageDraw.Draw(image).polygon(points, fill=fill)
    else:
        box = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
        ImageDraw.Draw(image).ellipse(box, fill=fill)
    return image.resize((side_px, side_px), Image.Resampling.BOX)


def _shade(rgb: tuple[int, int, int], random: np.random.Generator, *, channels: int) -> tuple[int, ...]:
    """Lighter or darker, each of three channels by itself or, with one, all alike: a grey stays grey."""
    shifted = np.asarray(rgb) + random.integers(-SHADE_SPREAD, SHADE_SPREAD + 1, channels)
    return tuple(int(value) for value in np.clip(shifted, 0, 255))
