"""Sample grids: every image in its place, enlarged by whole factors, as a PNG."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gen_dist.sample.grid import MARGIN_PX, png, sample_grid
from gen_dist.sample.model import to_uint8


@pytest.mark.parametrize("count", [1, 2, 5, 16, 32])
@pytest.mark.parametrize("side", [16, 64, 128])
def test_images_stand_in_reading_order(count: int, side: int) -> None:
    images = np.zeros((count, side, side, 3), np.uint8)
    images[:] = (np.arange(count) * 7 + 10).astype(np.uint8)[:, None, None, None]
    grid = sample_grid(images, [f"number {number}" for number in range(count)])
    seen = [int(grid[row, column, 0]) for row in range(grid.shape[0]) for column in (MARGIN_PX,)]
    assert int(images[0, 0, 0, 0]) in seen
    values = list(dict.fromkeys(grid[:, :, 0].ravel().tolist()))
    order = [value for value in values if value in {int(image[0, 0, 0]) for image in images}]
    assert order[: min(count, 4)] == [int(image[0, 0, 0]) for image in images][: min(count, 4)]


def test_a_png_is_the_image() -> None:
    image = np.random.Generator(np.random.Philox(0)).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(png(image)))) == image).all()


def test_the_ends_of_the_range_are_black_and_white() -> None:
    import torch

    image = torch.tensor([-1.0, 0.0, 1.0, 2.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert to_uint8(image)[0, :, :, 0].tolist() == [[0, 128], [255, 255]]
