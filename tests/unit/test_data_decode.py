"""Decoding: what a person sees in the file is what the network gets."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gen_dist.data.augment import CENTRE
from gen_dist.data.decode import DecodeError, decode_caption, decode_label
from tests.support.odd_images import decode_image
from tests.support.shards import noise, png


def decoded(data: bytes, size_px: int = 16) -> np.ndarray:
    return decode_image(data, height_px=size_px, width_px=size_px)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chw(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_transparent_pixels_are_composited_on_white_exactly_as_pillow_does(form: str) -> None:
    image = noise(1)
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    np.testing.assert_array_equal(decoded(saved(image, form, **options)), chw(Image.alpha_composite(white, image)))


def test_pixels_under_full_transparency_do_not_show_even_after_resizing() -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert (decoded(png(image)) == 255).all()


def test_grey_with_alpha_and_palette_with_transparency_are_composited_too() -> None:
    grey = noise(2, mode="LA")
    white = Image.new("RGBA", grey.size, (255, 255, 255, 255))
    np.testing.assert_array_equal(decoded(png(grey)), chw(Image.alpha_composite(white, grey.convert("RGBA"))))
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, 8, 16))
    pixels = decoded(saved(palette, "PNG", transparency=0))
    assert (pixels[:, :, 8:] == 255).all()
    assert pixels[:, 0, 0].tolist() == [0, 0, 255]


def test_rgb_with_a_transparent_colour_is_composited() -> None:
    image = Image.new("RGB", (16, 16), (10, 20, 30))
    image.paste((1, 2, 3), (0, 0, 8, 16))
    pixels = decoded(saved(image, "PNG", transparency=(1, 2, 3)))
    assert (pixels[:, :, :8] == 255).all()
    assert pixels[:, 0, 12].tolist() == [10, 20, 30]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation: int) -> None:
    """The same upright picture, stored in each of the eight EXIF orientations, decodes to the same pixels."""
    upright = noise(3, mode="RGB")
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for turn in undo.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(saved(stored, "PNG", exif=exif)), chw(upright))


def test_sixteen_bit_grey_keeps_its_range() -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    pixels = decoded(png(Image.fromarray(levels)))
    np.testing.assert_array_equal(pixels, np.broadcast_to(levels >> 8, (3, 16, 16)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_every_common_mode_of_png_decodes(mode: str) -> None:
    image = noise(4, mode="RGB").convert(mode)
    np.testing.assert_array_equal(decoded(png(image)), chw(image))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_common_mode_of_jpeg_decodes(mode: str) -> None:
    data = saved(Image.new(mode, (16, 16), 0), "JPEG", quality=95)
    black = 255 if mode == "CMYK" else 0  # no ink
    assert np.abs(decoded(data).astype(int) - black).max() <= 2


def test_only_the_centre_of_a_wide_image_is_kept() -> None:
    wide = Image.new("RGB", (64, 16), (255, 0, 0))
    wide.paste((0, 255, 0), (24, 0, 40, 16))
    pixels = decoded(png(wide))
    assert (pixels[1] == 255).all()
    assert (pixels[0] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (3, 7), (1000, 999), (16, 17), (255, 2)])
@pytest.mark.parametrize("wanted", [(16, 16), (8, 24), (24, 8)])
def test_any_size_becomes_the_wanted_size(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    height_px, width_px = wanted
    data = png(Image.new("RGB", size, (9, 8, 7)))
    pixels = decode_image(data, height_px=height_px, width_px=width_px)
    assert pixels.shape == (3, height_px, width_px)
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]
    assert (pixels == np.array([9, 8, 7])[:, None, None]).all()


def test_the_crop_is_centred_and_inside() -> None:
    assert CENTRE.box(100, 50, width_px=10, height_px=10) == (25.0, 0.0, 75.0, 50.0)
    assert CENTRE.box(50, 100, width_px=20, height_px=10) == (0.0, 37.5, 50.0, 62.5)


def test_fine_stripes_become_grey_and_not_a_pattern() -> None:
    """A resize without antialiasing would give black or white."""
    stripes = np.zeros((128, 128), np.uint8)
    stripes[:, ::2] = 255
    pixels = decoded(png(Image.fromarray(stripes)))
    assert np.abs(pixels[:, 2:-2, 2:-2].astype(int) - 127).max() < 12


@pytest.mark.parametrize(
    "data", [b"", b"no image at all", png(noise(5))[:200], saved(noise(5, mode="RGB"), "JPEG")[:300]]
)
def test_what_is_no_whole_image_is_refused_on_one_line(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decoded(data)
    assert "\n" not in str(caught.value)


def test_captions_and_labels_come_from_text_or_json() -> None:
    record = b'{"label": 3, "name": " a cat ", "code": "12", "flag": true, "share": 0.5}'
    assert decode_caption("h\u00e9 \n".encode()) == "h\u00e9"
    assert decode_caption(record, "name") == "a cat"
    assert decode_label(b"7\n") == 7
    assert decode_label(record, "label") == 3
    assert decode_label(record, "code") == 12


@pytest.mark.parametrize(
    ("key", "data", "says"),
    [
        ("label", b'{"name": "x"}', "no key 'label' .it has name."),
        ("label", b"[1]", "no key 'label' .it has a list."),
        ("label", b"{", "no readable JSON"),
        ("label", b'{"label": true}', "no integer"),
        ("label", b'{"label": 0.5}', "no integer"),
        ("", b"cat", "'cat', which is no integer"),
        ("", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_label_that_is_none_is_refused_with_what_was_seen(key: str, data: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        decode_label(data, key)


def test_a_caption_that_is_no_text_is_refused() -> None:
    with pytest.raises(DecodeError, match="'n' is 3, which is no text"):
        decode_caption(b'{"n": 3}', "n")
