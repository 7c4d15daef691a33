"""From the bytes of an image to the bytes that are packed: as they are where that is possible, else encoded anew."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from gen_dist.data.pack.listing import NO_IMAGE, TOO_LONG, TOO_SMALL, UNDECODABLE, RejectedError
from gen_dist.data.pack.options import DEFAULT_QUALITY, PackOptions

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # what a run reads; others become png
FULL_CHROMA_QUALITY = 90  # from here on JPEG keeps colour at full resolution
ORIENTATION_TAG = 0x0112
UNREADABLE = (  # all that Pillow's plugins are known to raise on damaged files
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Picture:
    """An image member."""

    data: bytes
    extension: str
    """jpg, png or webp, by what the bytes are."""
    width_px: int
    height_px: int
    """Upright."""
    is_kept: bool
    """Whether these are the bytes of the source."""


def prepare(data: bytes, options: PackOptions) -> Picture:
    """The image as it is packed; it has been decoded in full in any case. Raises: RejectedError."""
    if not data:
        raise RejectedError(NO_IMAGE, "0 bytes")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _prepare(image, data, options)
    except UNREADABLE as error:
        if isinstance(error, RejectedError):
            raise
        detail = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            detail = f"no known image format in its {len(data)} bytes"
        raise RejectedError(UNDECODABLE, detail) from error


def _prepare(image: Image.Image, data: bytes, options: PackOptions) -> Picture:
    width_px, height_px = image.size
    shorter_px, longer_px = sorted(image.size)
    if shorter_px < options.min_size_px:
        raise RejectedError(TOO_SMALL, f"{width_px} x {height_px} px")
    if options.max_aspect and longer_px > options.max_aspect * shorter_px:
        raise RejectedError(TOO_LONG, f"{width_px} x {height_px} px")
    own = EXTENSIONS.get(image.format or "", "")
    extension = {"keep": own or "png", "jpeg": "jpg"}.get(options.format, options.format)
    scale = options.size_px / shorter_px if options.size_px else 1.0
    if scale > 1 and not options.upscale:
        scale = 1.0
    if scale == 1 and own == extension and not (options.quality and extension != "png"):
        if image.getexif().get(ORIENTATION_TAG, 1) in (5, 6, 7, 8):
            width_px, height_px = height_px, width_px
        image.draft(
            image.mode, (width_px // 8, height_px // 8)
        )  # a check needs all of the bytes, not all of the pixels
        image.load()
        return Picture(data, extension, width_px, height_px, is_kept=True)
    upright = plain(ImageOps.exif_transpose(image))
    if scale != 1:
        size = tuple(max(1, round(side_px * scale)) for side_px in upright.size)
        upright = upright.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    encoded = _encode(upright, extension, quality=options.quality or DEFAULT_QUALITY)
    return Picture(encoded, extension, *upright.size, is_kept=False)


def plain(image: Image.Image) -> Image.Image:
    """The same in 8-bit L, RGB or RGBA; an RGB colour profile stays with it."""
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    if image.mode == "I" or image.mode.startswith("I;16"):
        # convert() would clip 16 bits at 255
        image = Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise RejectedError(UNDECODABLE, "floating-point values have no fixed white; store 8- or 16-bit integers")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode in ("1", "L"):
        image = image.convert("L")
    else:
        image = image.convert("RGB")
    image.info = {"icc_profile": profile} if profile else {}
    return image


def _encode(image: Image.Image, extension: str, *, quality: int) -> bytes:
    profile = image.info.get("icc_profile")
    file = io.BytesIO()
    if extension == "jpg":
        if image.mode == "RGBA":
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
        subsampling = "4:4:4" if quality >= FULL_CHROMA_QUALITY else "4:2:0"
        image.save(file, "JPEG", quality=quality, subsampling=subsampling, icc_profile=profile)
    elif extension == "webp":
        image.save(file, "WEBP", quality=quality, icc_profile=profile)
    else:
        image.save(file, "PNG", icc_profile=profile)
    return file.getvalue()
