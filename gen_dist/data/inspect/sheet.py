"""The contact sheet: pictures as cards in a grid, each over its caption, size and key."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont, ImageOps

from gen_dist.data.decode.text import whole_text
from gen_dist.data.inspect.look import Seen
from gen_dist.data.pack.pictures import UNREADABLE, plain

PICTURE_PX = 256
GAP_PX = 16
PADDING_PX = 12
TITLE_PX = 58
LINE_PX = 17
MOST_CAPTION_LINES = 3
MOST_COLUMNS = 8

GROUND, CARD, EDGE, SHADE = "#eceae6", "#ffffff", "#d9d6d0", "#f6f5f2"
INK, PALE, ALARM = "#23211e", "#8b8780", "#b3372b"
ELLIPSIS = "…"

Font = ImageFont.FreeTypeFont


def draw_sheet(seen: Sequence[Seen], *, title: str, subtitle: str) -> bytes:
    """The sheet as PNG. What cannot be decoded keeps its place and says so."""
    columns = max(1, min(MOST_COLUMNS, math.ceil(math.sqrt(len(seen)))))
    num_rows = max(1, math.ceil(len(seen) / columns))
    lines = [wrapped(sample.caption or "", _font(13), PICTURE_PX, MOST_CAPTION_LINES) for sample in seen]
    caption_px = LINE_PX * max(1, *map(len, lines)) if lines else 0
    card_w, card_h = PICTURE_PX + 2 * PADDING_PX, PICTURE_PX + 3 * PADDING_PX + caption_px + LINE_PX
    width_px = max(3, columns) * (card_w + GAP_PX) + GAP_PX
    sheet = Image.new("RGB", (width_px, TITLE_PX + num_rows * (card_h + GAP_PX) + GAP_PX), GROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP_PX + 2, 14), cut_end(title, _font(18, bold=True), width_px - 2 * GAP_PX), INK, _font(18, bold=True))
    pen.text((GAP_PX + 2, 40), cut_end(subtitle, _font(13), width_px - 2 * GAP_PX), PALE, _font(13))
    for place, (sample, caption) in enumerate(zip(seen, lines, strict=True)):
        left = GAP_PX + place % columns * (card_w + GAP_PX)
        top = TITLE_PX + GAP_PX + place // columns * (card_h + GAP_PX)
        pen.rounded_rectangle((left, top, left + card_w, top + card_h), 8, CARD, EDGE)
        left, top = left + PADDING_PX, top + PADDING_PX
        _picture(sheet, pen, sample, left, top)
        below = top + PICTURE_PX + PADDING_PX
        _words(pen, sample, caption, left, below, below + caption_px + 4)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _picture(sheet: Image.Image, pen: ImageDraw.ImageDraw, sample: Seen, left: int, top: int) -> None:
    picture = _thumbnail(sample.image)
    pen.rectangle((left, top, left + PICTURE_PX - 1, top + PICTURE_PX - 1), SHADE)
    if picture is None:
        text = "undecodable" if sample.image else "no image"
        pen.text((left + PICTURE_PX / 2, top + PICTURE_PX / 2), text, ALARM, _font(13), anchor="mm")
    else:
        corner = (left + (PICTURE_PX - picture.width) // 2, top + (PICTURE_PX - picture.height) // 2)
        sheet.paste(picture, corner)


def _words(
    pen: ImageDraw.ImageDraw, sample: Seen, caption: Sequence[str], left: int, caption_top: int, key_top: int
) -> None:
    for number, line in enumerate(caption):
        pen.text((left, caption_top + number * LINE_PX), line, INK, _font(13))
    if not caption:
        pen.text((left, caption_top), "no caption", PALE, _font(13, slanted=True))
    size = f"{sample.width_px} × {sample.height_px} {sample.extension}" if sample.width_px else sample.extension
    size_w = _font(11).getlength(size)
    pen.text((left + PICTURE_PX - size_w, key_top), size, PALE, _font(11))
    key = cut_start(whole_text(sample.key), _font(11), PICTURE_PX - size_w - PADDING_PX)
    pen.text((left, key_top), key, PALE, _font(11))


def _thumbnail(data: bytes) -> Image.Image | None:
    """Inside the picture's square, on white where it is transparent; small ones enlarged by whole factors."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            opened.draft("RGB", (2 * PICTURE_PX, 2 * PICTURE_PX))
            image = plain(ImageOps.exif_transpose(opened)).convert("RGBA")
    except UNREADABLE:
        return None
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    factor = PICTURE_PX // max(image.size)
    if factor >= 2:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    return ImageOps.contain(image, (PICTURE_PX, PICTURE_PX), Image.Resampling.LANCZOS) if factor == 0 else image


def wrapped(text: str, font: Font, width_px: float, num_lines: int) -> list[str]:
    """At most so many lines that fit; the last one ends in an ellipsis where text is left over."""
    words = text.split()
    lines: list[str] = []
    while words and len(lines) < num_lines:
        line = words.pop(0)
        if len(lines) == num_lines - 1:
            return [*lines, cut_end(" ".join([line, *words]), font, width_px)]
        while words and font.getlength(f"{line} {words[0]}") <= width_px:
            line = f"{line} {words.pop(0)}"
        if font.getlength(line) > width_px:  # one word, longer than a line, or a script without spaces
            fits = _num_fitting(line, font, width_px)
            words.insert(0, line[fits:])
            line = line[:fits]
        lines.append(line)
    return lines


def cut_end(text: str, font: Font, width_px: float) -> str:
    """The text, or as much of its start as fits before an ellipsis."""
    if len(text) <= _num_fitting(text, font, width_px):
        return text
    return text[: _num_fitting(text, font, width_px - font.getlength(ELLIPSIS))].rstrip() + ELLIPSIS


def cut_start(text: str, font: Font, width_px: float) -> str:
    """The text, or as much of its end, where keys differ, as fits behind an ellipsis."""
    turned = text[::-1]
    if len(text) <= _num_fitting(turned, font, width_px):
        return text
    fits = _num_fitting(turned, font, width_px - font.getlength(ELLIPSIS))
    return ELLIPSIS + text[len(text) - fits :].lstrip()


def _num_fitting(text: str, font: Font, width_px: float) -> int:
    """Characters of the start that fit; one at least, so that wrapping ends."""
    most = min(len(text), 400)
    return max(1, next((n - 1 for n in range(1, most + 1) if font.getlength(text[:n]) > width_px), most))


_FONTS: dict[tuple[int, str], Font] = {}


def _font(size_px: int, *, bold: bool = False, slanted: bool = False) -> Font:
    """Of the family that matplotlib brings along: letters of Latin, Greek, Cyrillic and many more."""
    face = "DejaVuSans" + ("-Bold" if bold else "-Oblique" if slanted else "")
    if (size_px, face) not in _FONTS:
        path = Path(mpl.get_data_path(), "fonts", "ttf", f"{face}.ttf")
        _FONTS[size_px, face] = ImageFont.truetype(str(path), size_px)
    return _FONTS[size_px, face]
