"""Every image that is no JPEG, through Pillow, and the way of an open image into the row of a batch.

Shapes: H x W pixels wanted.
"""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import ExifTags, Image

from gen_dist.data.augment import Crop
from gen_dist.data.decode.errors import Buffer, DecodeError, one_line

MAX_PIXELS = 89_478_485  # Pillow's own bound, where it begins to warn: 256 MiB of RGB
FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")  # none of those that start another program
WHITE = (255, 255, 255, 255)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_rgb(data: Buffer, *, formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """The first frame, upright, RGB, with transparency on white. Raises: DecodeError."""
    try:
        with Image.open(io.BytesIO(data), formats=formats) as opened:
            check_num_pixels(*opened.size)
            opened.load()
            return _to_rgb(upright(opened, _orientation(opened)))
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make Pillow's readers raise anything
        kinds = ", ".join(["JPEG", *FORMATS])
        said = f"none of {kinds}" if isinstance(error, Image.UnidentifiedImageError) else one_line(error)
        raise DecodeError(f"no readable image of {len(data)} bytes ({said})") from error


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """`image` as its EXIF orientation (1 to 8, anything else means 1) wants it seen."""
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(turn)


def place(image: Image.Image, out: np.ndarray, *, crop: Crop) -> None:
    """The box of `crop` in an RGB `image`, resized with Lanczos where it must be, into `out` (H, W, 3)."""
    height_px, width_px = out.shape[:2]
    left, top, right, bottom = box = crop.box(*image.size, width_px=width_px, height_px=height_px)
    if (right - left, bottom - top) != (width_px, height_px):
        image = image.resize((width_px, height_px), Image.Resampling.LANCZOS, box=box)
    elif image.size != (width_px, height_px):
        image = image.crop((int(left), int(top), int(right), int(bottom)))
    out[...] = np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.flip else image)


def check_num_pixels(width_px: int, height_px: int) -> None:
    """Raises: DecodeError for an image of nothing, and for one that would take too much memory to decode."""
    if not (width_px and height_px):
        raise DecodeError(f"an image of {width_px} x {height_px} px, which shows nothing")
    if width_px * height_px > MAX_PIXELS:
        raise DecodeError(f"an image of {width_px} x {height_px} px, more than {MAX_PIXELS:,} in all; make it smaller")


def _orientation(image: Image.Image) -> int:
    """Of the EXIF data or XMP; 1 where there is none that can be read: the picture is whole without it."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, ValueError, SyntaxError, TypeError, LookupError, struct.error):
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert() would clip 16 bits at 255; the high byte is also what Pillow takes of 16-bit RGB
        levels = np.asarray(image)
        return Image.fromarray((np.clip(levels, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DecodeError("an image of floating-point values has no fixed white; store 8- or 16-bit integers")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, WHITE), rgba).convert("RGB")
    return image.convert("RGB")
