"""Sample grids: drawn images side by side, each with its prompt, as one PNG.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHOWN_PX = 96  # the smallest side at which a person reads a 64 px drawing with ease
MARGIN_PX = 8
CAPTION_PX = 26  # two lines
MOST_COLUMNS = 8


def png(image_HW3: np.ndarray) -> bytes:
    """One image as PNG."""
    stream = io.BytesIO()
    Image.fromarray(image_HW3).save(stream, format="PNG")
    return stream.getvalue()


def read_png(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8. Raises: OSError where it is no image."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def sample_grid(images_NHW3: np.ndarray, captions: Sequence[str] | None = None) -> np.ndarray:
    """(rows, columns, 3) uint8: images in reading order, enlarged by whole factors, each above its caption."""
    count, height, width, _ = images_NHW3.shape
    columns = MOST_COLUMNS if count > 2 * MOST_COLUMNS else max(1, math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    scale = max(1, math.ceil(SHOWN_PX / height))
    cell_w = width * scale + MARGIN_PX
    cell_h = height * scale + MARGIN_PX + (CAPTION_PX if captions else 0)
    sheet = Image.new("RGB", (columns * cell_w + MARGIN_PX, rows * cell_h + MARGIN_PX), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=10)
    for position, image in enumerate(images_NHW3):
        left = MARGIN_PX + position % columns * cell_w
        top = MARGIN_PX + position // columns * cell_h
        sheet.paste(
            Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST), (left, top)
        )
        if captions:
            lines = _wrapped(captions[position], pen, font, width * scale)
            pen.multiline_text((left, top + height * scale + 1), lines, fill=(60, 60, 60), font=font, spacing=1)
    return np.asarray(sheet)


def _wrapped(
    text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int
) -> str:
    """At most two lines that fit; what does not is cut with an ellipsis."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if pen.textlength(longer, font=font) <= width_px or not lines[-1]:
            lines[-1] = longer
        elif len(lines) == 2:
            lines[-1] += "…"
            break
        else:
            lines.append(word)
    return "\n".join(lines)
