"""JPEG by libjpeg-turbo, straight into the row of a batch where the size fits.

The interpreter's lock is free meanwhile, so threads decode side by side. Pixels equal Pillow's bit for bit unless
`fast_downscale` is set. Unlike with Pillow, any defect in the compressed data is an error, and never grey blocks.

Shapes: h x w pixels stored.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image

from gen_dist.data.augment import Crop
from gen_dist.data.decode.errors import Buffer, DecodeError, one_line
from gen_dist.data.decode.jpeg_header import JpegHeader, read_jpeg_header
from gen_dist.data.decode.pillow import check_num_pixels, open_rgb, place, upright

START = b"\xff\xd8\xff"
_HEAD_BYTES = 2048
_APP1, _BASELINE = b"\xff\xe1", b"\xff\xc0"  # the segment that may hold an orientation; the usual kind of frame
_THREE_COMPONENTS = b"\x03"
_UNKNOWN_SUBSAMPLING = "Could not determine subsampling"
_TURNED_SIDEWAYS = 5  # the first of the orientations that swap width and height
_OVERSAMPLING = 2  # a box-like DCT filter down to this multiple of the wanted size leaves the rest to Lanczos


def decode_plain(datas: Sequence[Buffer], outs: Sequence[np.ndarray]) -> list[int]:
    """Decodes those that are upright JPEGs of just the size of their rows; returns the numbers of all others.

    Looking comes before decoding, since after each picture nothing of Python is left in the processor's caches: what
    runs between two of them takes several times as long.
    """
    if not outs:
        return []
    decode, shape = simplejpeg.decode_jpeg, outs[0].shape
    wanted = struct.pack(">HH", shape[0] & 0xFFFF, shape[1] & 0xFFFF) + _THREE_COMPONENTS
    plain = [number for number, data in enumerate(datas) if _is_plain(data, wanted)]
    left = set(range(len(datas))).difference(plain)
    for number in plain:
        try:
            if decode(datas[number], buffer=outs[number]).shape != shape:
                left.add(number)  # what looked like its frame was none
        except (ValueError, KeyError):
            left.add(number)  # broken: who looks closer says so
    return sorted(left)


def _is_plain(data: Buffer, wanted: bytes) -> bool:
    """Whether it may well be upright and what `wanted` says: height, width and number of components of its frame."""
    head = bytes(data[:_HEAD_BYTES])
    frame = head.find(_BASELINE)
    return (
        frame >= 0
        and head[frame + 5 : frame + 10] == wanted
        and head.startswith(START)
        and head.find(_APP1, 0, frame) < 0  # else it is perhaps turned
    )


def decode_jpeg_into(data: Buffer, out: np.ndarray, *, crop: Crop, fast_downscale: bool) -> None:
    """See `decode_image_into`; `data` starts with START."""
    header = read_jpeg_header(data)
    width_px, height_px, num_components, orientation = header
    check_num_pixels(width_px, height_px)
    if out.shape == (height_px, width_px, 3) and orientation == 1 and num_components != 4 and crop.scale == 1.0:
        try:
            if crop.flip:
                # The bytes of a BGR row from its end are the mirrored RGB row, and bytes move quicker than pixels.
                mirrored_hwC = simplejpeg.decode_jpeg(data, colorspace="BGR")
                out.reshape(height_px, -1)[...] = mirrored_hwC.reshape(height_px, -1)[:, ::-1]
            else:
                simplejpeg.decode_jpeg(data, buffer=out)
            return
        except (ValueError, KeyError) as error:
            if _UNKNOWN_SUBSAMPLING not in str(error):
                raise _unreadable(data, error) from error
    smallest = _smallest(header, out, crop) if fast_downscale else {}
    place(_decoded(data, header, smallest), out, crop=crop)


def _decoded(data: Buffer, header: JpegHeader, smallest: dict[str, int]) -> Image.Image:
    """The upright image, at least as large as `smallest` says."""
    space = "CMYK" if header.num_components == 4 else "RGBX"  # four bytes a pixel, as Pillow holds RGB
    try:
        pixels_hwC = simplejpeg.decode_jpeg(data, colorspace=space, **smallest)
    except (ValueError, KeyError) as error:
        if _UNKNOWN_SUBSAMPLING not in str(error):
            raise _unreadable(data, error) from error
        return open_rgb(data, formats=("JPEG",))  # rare sampling factors, which TurboJPEG's interface has no name for
    size_px = (pixels_hwC.shape[1], pixels_hwC.shape[0])
    if space == "CMYK":
        # Files hold the inverse of the ink, as Adobe does.
        image = Image.frombytes("CMYK", size_px, np.subtract(255, pixels_hwC, out=pixels_hwC)).convert("RGB")
    else:
        image = Image.frombytes("RGB", size_px, pixels_hwC, "raw", "RGBX")
    return upright(image, header.orientation)


def _smallest(header: JpegHeader, out: np.ndarray, crop: Crop) -> dict[str, int]:
    """How far the DCT may scale the stored image, so that the box keeps twice the wanted pixels in both directions."""
    height_px, width_px = out.shape[:2]
    sideways = header.orientation >= _TURNED_SIDEWAYS
    from_width_px, from_height_px = header[1::-1] if sideways else header[:2]
    left, top, right, bottom = crop.box(from_width_px, from_height_px, width_px=width_px, height_px=height_px)
    min_width = math.ceil(_OVERSAMPLING * width_px * from_width_px / (right - left))
    min_height = math.ceil(_OVERSAMPLING * height_px * from_height_px / (bottom - top))
    if sideways:
        min_width, min_height = min_height, min_width
    # Factors between 1 and 2 take longer than none.
    return {"min_width": min_width, "min_height": min_height, "min_factor": 2}


def _unreadable(data: Buffer, error: Exception) -> DecodeError:
    return DecodeError(f"no readable JPEG of {len(data)} bytes ({one_line(error)})")
