"""Whether the images of a sample can be decoded, and how large they are.

An image member is one whose ending behind its last dot is an image's (`.jpg`, `.seg.png`). The size of a sample is that
of the first of `.png .jpg .jpeg .webp` that it has, as `data.image` takes it, or else of its first image.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import simplejpeg  # type: ignore[import-untyped]
from PIL import Image

ENDINGS = frozenset({"avif", "bmp", "gif", "jfif", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"})
FIRST = ("png", "jpg", "jpeg", "webp")
MOST_IMAGE_BYTES = 256 << 20  # an image is held in memory whole
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
ORIENTATION = 0x0112


def is_image(extension: str) -> bool:
    return extension.rpartition(".")[2] in ENDINGS


def size_px(data: bytes) -> tuple[int, int]:
    """(width, height) of an image as it is seen, upright, after all of it was decoded.

    Raises: ValueError with one line for what cannot be decoded.
    """
    try:
        if data[:2] == b"\xff\xd8":
            _decode_jpeg(data)
        with Image.open(io.BytesIO(data)) as image:
            if image.format not in ("JPEG", "MPO"):
                image.load()
            width_px, height_px = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, Image.DecompressionBombError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    return (height_px, width_px) if turned else (width_px, height_px)


def chosen(sizes: Sequence[tuple[str, tuple[int, int]]]) -> tuple[int, int]:
    """The size of a sample from those of its image members; (0, 0) where it has none."""
    by_extension = dict(sizes)
    named = (by_extension[extension] for extension in FIRST if extension in by_extension)
    return next(named, sizes[0][1] if sizes else (0, 0))


def _decode_jpeg(data: bytes) -> None:
    """Decodes all coefficients, but only an eighth of the pixels. Raises: ValueError, for warnings of libjpeg too."""
    _, _, colours, _ = simplejpeg.decode_jpeg_header(data)
    space = "CMYK" if colours in ("CMYK", "YCCK") else "GRAY"
    simplejpeg.decode_jpeg(data, space, min_height=1, min_width=1, min_factor=8, strict=True)
