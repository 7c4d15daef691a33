"""From the bytes of an image of any common kind to a row of a batch.

Shapes: H x W pixels wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gen_dist.data.augment import CENTRE, Crop
from gen_dist.data.decode.errors import Buffer, DecodeError
from gen_dist.data.decode.jpeg import START, decode_jpeg_into, decode_plain
from gen_dist.data.decode.pillow import open_rgb, place


def decode_image_into(data: Buffer, out: np.ndarray, *, crop: Crop = CENTRE, fast_downscale: bool = False) -> None:
    """The part that `crop` names, upright, transparency on white, resized with Lanczos, into `out` (H, W, 3).

    `out` is uint8 and C-contiguous: one row of a batch. A JPEG of exactly H x W pixels is decoded in place.
    `fast_downscale` lets a JPEG of more than four times H x W be shrunk by its DCT first, to no less than twice H x W:
    quicker, and a little softer. After an error the content of `out` is undefined.

    Raises: DecodeError for what is no whole image, or one of more than MAX_PIXELS.
    """
    _check(out)
    if crop != CENTRE or decode_plain([data], [out]):
        _decode_any(data, out, crop=crop, fast_downscale=fast_downscale)


def decode_images_into(
    members: Sequence[tuple[int, Buffer, Crop]], rows: np.ndarray, *, fast_downscale: bool = False
) -> dict[int, DecodeError]:
    """(row, bytes, crop) each as `decode_image_into` into `rows` (B, H, W, 3), and the errors by row."""
    _check(rows[0])
    outs = [rows[row] for row, _, _ in members]
    whole = [place for place, (_, _, crop) in enumerate(members) if crop == CENTRE]
    missed = decode_plain([members[place][1] for place in whole], [outs[place] for place in whole])
    left = set(range(len(members))).difference(whole).union(whole[place] for place in missed)
    errors = {}
    for number in sorted(left):
        row, data, crop = members[number]
        try:
            _decode_any(data, outs[number], crop=crop, fast_downscale=fast_downscale)
        except DecodeError as error:
            errors[row] = error
    return errors


def _decode_any(data: Buffer, out: np.ndarray, *, crop: Crop, fast_downscale: bool) -> None:
    """What is no JPEG of just that size."""
    if bytes(data[:3]) == START:
        decode_jpeg_into(data, out, crop=crop, fast_downscale=fast_downscale)
    else:
        place(open_rgb(data), out, crop=crop)


def _check(out: np.ndarray) -> None:
    if out.dtype != np.uint8 or out.ndim != 3 or out.shape[2] != 3 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}; wanted a C-contiguous uint8 (H, W, 3)")
