"""Odd images: each becomes what a person sees when opening it, or an error that says what is wrong with it."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps

from gen_dist.data.augment import Crop
from gen_dist.data.decode import MAX_PIXELS, DecodeError, decode_image_into
from tests.support.odd_images import flat_jpeg, odd_images, photo, png_file, saved

ODD = odd_images()


def decoded(data: bytes, *, height_px: int, width_px: int, **options: object) -> np.ndarray:
    out_HWC = np.full((height_px, width_px, 3), 77, np.uint8)
    decode_image_into(data, out_HWC, **options)
    return out_HWC


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_becomes_what_is_seen(name: str) -> None:
    data, seen = ODD[name]
    got = decoded(data, height_px=seen.height, width_px=seen.width)
    near = 1 if "RGBA" in name or "LA " in name else 0  # Pillow rounds a blend differently in its last bit
    assert np.abs(got.astype(int) - np.asarray(seen)).max() <= near


@pytest.mark.parametrize("name", [name for name in ODD if "RGBA" not in name and "LA " not in name])
@pytest.mark.parametrize("size_px", [(32, 32), (24, 56)])
def test_an_odd_image_is_cropped_and_resized_as_pillow_fits_it(name: str, size_px: tuple[int, int]) -> None:
    data, seen = ODD[name]
    wanted = ImageOps.fit(seen, size_px, Image.Resampling.LANCZOS, centering=(0.5, 0.5))
    got = decoded(data, height_px=size_px[1], width_px=size_px[0])
    # `fit` computes its box in another order; the last bit of a weight may differ.
    assert np.abs(got.astype(int) - np.asarray(wanted)).max() <= 1


@pytest.mark.parametrize("name", [name for name in ODD if "JPEG" in name and "50" not in name])
def test_a_mirrored_crop_of_an_odd_jpeg_is_the_mirror_of_the_crop(name: str) -> None:
    data, seen = ODD[name]
    size_px = {"height_px": seen.height, "width_px": seen.width}
    np.testing.assert_array_equal(decoded(data, **size_px, crop=Crop(flip=True)), decoded(data, **size_px)[:, ::-1])
    drawn = Crop(0.6, 0.25, 0.9)
    box = drawn.box(seen.width, seen.height, height_px=16, width_px=24)
    wanted = np.asarray(seen.resize((24, 16), Image.Resampling.LANCZOS, box=box))
    np.testing.assert_array_equal(
        decoded(data, height_px=16, width_px=24, crop=drawn._replace(flip=True)), wanted[:, ::-1]
    )


def test_any_buffer_is_taken_and_only_the_row_is_written() -> None:
    data = saved(photo(32, 32), "JPEG")
    batch_BHWC = np.zeros((3, 32, 32, 3), np.uint8)
    decode_image_into(memoryview(data), batch_BHWC[1])
    np.testing.assert_array_equal(batch_BHWC[1], decoded(bytearray(data), height_px=32, width_px=32))
    assert not batch_BHWC[[0, 2]].any()


def test_threads_decode_the_same_pixels() -> None:
    names = list(ODD) * 4
    alone = {name: decoded(ODD[name][0], height_px=24, width_px=24) for name in ODD}
    with ThreadPoolExecutor(4) as threads:
        side_by_side = threads.map(lambda name: decoded(ODD[name][0], height_px=24, width_px=24), names)
        for name, got in zip(names, side_by_side, strict=True):
            np.testing.assert_array_equal(got, alone[name], err_msg=name)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    side_px = int(MAX_PIXELS**0.5) + 1
    if kind == "JPEG":
        data = flat_jpeg(8, 8, sampling=(0x11,)).replace(struct.pack(">HH", 8, 8), struct.pack(">HH", side_px, side_px))
    else:
        small = png_file(np.zeros((8, 8, 1)), 0)
        data = small.replace(struct.pack(">LL", 8, 8), struct.pack(">LL", side_px, side_px))
        head = data[12:29]
        data = data[:29] + struct.pack(">L", zlib.crc32(head)) + data[33:]
    with pytest.raises(DecodeError, match=f"{side_px} x {side_px} px, more than 89,478,485 in all; make it smaller"):
        decoded(data, height_px=16, width_px=16)


@pytest.mark.parametrize("fast", [False, True])
def test_an_image_of_no_pixels_is_refused(fast: bool) -> None:
    for size_px in ((0, 8), (8, 0)):
        with pytest.raises(DecodeError, match=f"{size_px[0]} x {size_px[1]} px, which shows nothing"):
            decoded(flat_jpeg(*size_px, sampling=(0x11,)), height_px=8, width_px=8, fast_downscale=fast)


def test_an_image_of_eight_thousand_pixels_a_side_decodes() -> None:
    data = flat_jpeg(8000, 8000, sampling=(0x11,))
    for fast in (False, True):
        assert (decoded(data, height_px=16, width_px=16, fast_downscale=fast) == 128).all()


@pytest.mark.parametrize(
    "wrong", [np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((8, 16, 3), "u1")[:, ::2]]
)
def test_an_output_of_another_layout_is_a_mistake_of_the_caller(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="wanted a C-contiguous uint8") as caught:
        decode_image_into(saved(photo(8, 8), "JPEG"), wrong)
    assert not isinstance(caught.value, DecodeError)


def test_what_starts_another_program_or_is_no_image_is_refused_with_the_formats_that_are_read() -> None:
    postscript = saved(photo(8, 8), "EPS")
    for data in (postscript, b"RIFF", b"hello", b""):
        with pytest.raises(DecodeError, match="none of JPEG, PNG, WEBP, GIF"):
            decoded(data, height_px=8, width_px=8)
