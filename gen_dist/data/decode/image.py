"""From the bytes of an image of any common kind to a row of a batch.

Shapes: H x W pixels wanted.
"""

from __future__ import annotations

import numpy as np

from gen_dist.data.augment import CENTRE, Crop
from gen_dist.data.decode.errors import Buffer
from gen_dist.data.decode.jpeg import decode_jpeg_into
from gen_dist.data.decode.pillow import open_rgb, place


def decode_image_into(data: Buffer, out: np.ndarray, *, crop: Crop = CENTRE, fast_downscale: bool = False) -> None:
    """The part that `crop` names, upright, transparency on white, resized with Lanczos, into `out` (H, W, 3).

    `out` is uint8 and C-contiguous: one row of a batch. A JPEG of exactly H x W pixels is decoded in place.
    `fast_downscale` lets a JPEG of more than four times H x W be shrunk by its DCT first, to no less than twice H x W:
    quicker, and a little softer. After an error the content of `out` is undefined.

    Raises: DecodeError for what is no whole image, or one of more than MAX_PIXELS.
    """
    if out.dtype != np.uint8 or out.ndim != 3 or out.shape[2] != 3 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}; wanted a C-contiguous uint8 (H, W, 3)")
    if bytes(data[:3]) == b"\xff\xd8\xff":
        decode_jpeg_into(data, out, crop=crop, fast_downscale=fast_downscale)
    else:
        place(open_rgb(data), out, crop=crop)
