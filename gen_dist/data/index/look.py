"""Whether the images of a sample can be decoded, by the decoders of a run, and how large they are.

An image member is one whose ending behind its last dot is an image's (`.jpg`, `.seg.png`). The size of a sample is that
of the first of `.png .jpg .jpeg .webp` that it has, as `data.image` takes it, or else of its first image.
"""

from __future__ import annotations

from collections.abc import Sequence

import simplejpeg

from gen_dist.data.decode.errors import DecodeError, one_line
from gen_dist.data.decode.jpeg_header import read_jpeg_header
from gen_dist.data.decode.pillow import check_num_pixels, open_rgb

ENDINGS = frozenset({"avif", "bmp", "gif", "jfif", "jp2", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"})
FIRST = ("png", "jpg", "jpeg", "webp")
MOST_IMAGE_BYTES = 256 << 20  # an image is held in memory whole
SIDEWAYS = 5  # the first of EXIF's orientations that swap width and height
UNNAMED_SAMPLING = "Could not determine subsampling"  # rare factors, which Pillow can read


def is_image(extension: str) -> bool:
    return extension.rpartition(".")[2] in ENDINGS


def size_px(data: bytes) -> tuple[int, int]:
    """(width, height) of an image as it is seen, upright, after all of it was decoded. Raises: DecodeError."""
    if data[:3] != b"\xff\xd8\xff":
        return open_rgb(data).size
    width_px, height_px, num_components, orientation = read_jpeg_header(data)
    check_num_pixels(width_px, height_px)
    space = "CMYK" if num_components == 4 else "GRAY"
    try:
        # all coefficients are read, and only an eighth of the pixels made of them
        simplejpeg.decode_jpeg(data, colorspace=space, min_height=1, min_width=1, min_factor=8)
    except (ValueError, KeyError) as error:
        if UNNAMED_SAMPLING not in str(error):
            raise DecodeError(f"no readable JPEG of {len(data)} bytes ({one_line(error)})") from error
        return open_rgb(data, formats=("JPEG",)).size
    return (height_px, width_px) if orientation >= SIDEWAYS else (width_px, height_px)


def chosen(sizes: Sequence[tuple[str, tuple[int, int]]]) -> tuple[int, int]:
    """The size of a sample from those of its image members; (0, 0) where it has none."""
    by_extension = dict(sizes)
    named = (by_extension[extension] for extension in FIRST if extension in by_extension)
    return next(named, sizes[0][1] if sizes else (0, 0))
