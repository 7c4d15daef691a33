"""From the bytes of a member to an image, a caption or a label.

Shapes: H x W pixels wanted.
"""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image, ImageOps

WHITE = (255, 255, 255, 255)


class DecodeError(ValueError):
    """A member that is not what its field says. The stream adds the shard and the sample."""


def decode_image(data: bytes, *, height_px: int, width_px: int) -> np.ndarray:
    """(3, H, W) uint8 RGB: upright, transparency on white, largest centred crop of the wanted aspect, Lanczos.

    Raises: DecodeError.
    """
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = _to_rgb(ImageOps.exif_transpose(opened))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DecodeError(f"no readable image of {len(data)} bytes ({_one_line(error)})") from error
    if image.size != (width_px, height_px):
        box = centre_box(*image.size, width_px=width_px, height_px=height_px)
        image = image.resize((width_px, height_px), Image.Resampling.LANCZOS, box=box)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def centre_box(
    from_width_px: int, from_height_px: int, *, width_px: int, height_px: int
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest centred box whose aspect is width_px : height_px."""
    scale = min(from_width_px / width_px, from_height_px / height_px)
    box_width, box_height = min(width_px * scale, from_width_px), min(height_px * scale, from_height_px)
    left, top = (from_width_px - box_width) / 2, (from_height_px - box_height) / 2
    return left, top, min(left + box_width, from_width_px), min(top + box_height, from_height_px)


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


def decode_caption(data: bytes, key: str = "") -> str:
    """The text of a UTF-8 member without space at its ends, or of `key` in a JSON member."""
    value = _json_value(data, key) if key else _text(data)
    if not isinstance(value, str):
        raise DecodeError(f"{key!r} is {value!r}, which is no text")
    return value.strip()


def decode_label(data: bytes, key: str = "") -> int:
    """The integer that a text member holds, or that stands under `key` in a JSON member."""
    value = _json_value(data, key) if key else _text(data).strip()
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DecodeError(f"the label {f'{key!r} ' if key else ''}is {value!r}, which is no integer")
    try:
        return int(value)
    except ValueError as error:
        raise DecodeError(f"the label {f'{key!r} ' if key else ''}is {value!r:.60}, which is no integer") from error


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"the text is not UTF-8 ({_one_line(error)})") from error


def _json_value(data: bytes, key: str) -> object:
    try:
        record = json.loads(data)
    except ValueError as error:
        raise DecodeError(f"no readable JSON ({_one_line(error)})") from error
    if not isinstance(record, dict) or key not in record:
        has = ", ".join(sorted(record)) if isinstance(record, dict) else f"a {type(record).__name__}"
        raise DecodeError(f"the JSON has no key {key!r} (it has {has})")
    return record[key]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
