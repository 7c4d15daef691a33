"""JPEG: Pillow's pixels and orientations, no damage that Pillow lets pass, and DCT scaling that hardly shows."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gen_dist.data.augment import CENTRE, Crop
from gen_dist.data.decode import DecodeError, decode_image_into
from gen_dist.data.decode.jpeg_header import exif_orientation, read_jpeg_header
from tests.support.odd_images import exif, photo, saved


def decoded(data: bytes, size_px: tuple[int, int], **options: object) -> np.ndarray:
    out_HWC = np.zeros((size_px[1], size_px[0], 3), np.uint8)
    decode_image_into(data, out_HWC, **options)
    return out_HWC


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 100),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    st.booleans(),
    st.booleans(),
)
def test_pixels_are_those_of_pillow(
    width_px: int, height_px: int, quality: int, sampling: str, progressive: bool, grey: bool
) -> None:
    image = photo(width_px, height_px)
    options = {"quality": quality, "subsampling": sampling, "progressive": progressive}
    data = saved(image.convert("L") if grey else image, "JPEG", **options)
    seen = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoded(data, image.size), seen)


@pytest.mark.parametrize("size_px", [(48, 48), (64, 48)])
def test_no_truncated_jpeg_passes(size_px: tuple[int, int]) -> None:
    """Wherever it is cut, with or without a resize."""
    data = saved(photo(48, 48), "JPEG")
    for length in range(len(data)):
        with pytest.raises(DecodeError) as caught:
            decoded(data[:length], size_px)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("orientation", [1, 6])
def test_zeros_inside_the_scan_are_refused_where_pillow_shows_rubble(orientation: int) -> None:
    data = bytearray(saved(photo(96, 96), "JPEG", exif=exif(orientation)))
    middle = len(data) * 3 // 4
    data[middle : middle + 40] = b"\xff\xd9" + bytes(38)
    Image.open(io.BytesIO(data)).load()
    with pytest.raises(DecodeError, match="no readable JPEG of"):
        decoded(bytes(data), (96, 96))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [1, 3, 4, 5])
@pytest.mark.parametrize("value", [0, 1, 3, 6, 8, 9])
def test_orientation_is_read_as_pillow_reads_it(order: str, kind: int, value: int) -> None:
    head = b"II*\0" if order == "<" else b"MM\0*"
    name = "little" if order == "<" else "big"
    width_bytes = {1: 1, 3: 2, 4: 4, 5: 4}[kind]

    def number(of: int, size_bytes: int) -> bytes:
        return of.to_bytes(size_bytes, name)

    entry = number(0x0112, 2) + number(kind, 2) + number(1, 4) + number(value, width_bytes).ljust(4, b"\0")
    tiff = head + number(8, 4) + number(1, 2) + entry + bytes(4)
    by_pillow = Image.Exif()
    by_pillow.load(b"Exif\0\0" + tiff)
    assert exif_orientation(tiff) == (by_pillow.get(0x0112) if kind in (3, 4) else None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.sampled_from([b"", b"II*\0", b"MM\0*"]))
def test_any_exif_block_has_an_orientation_or_none(block: bytes, start: bytes) -> None:
    found = exif_orientation(start + block)
    assert found is None or found >= 0


def test_the_thumbnail_and_other_segments_do_not_turn_the_picture() -> None:
    thumbnail = saved(photo(16, 16), "JPEG", exif=exif(6))
    data = saved(photo(32, 24), "JPEG", comment=thumbnail)
    assert read_jpeg_header(data) == (32, 24, 3, 1)


@pytest.mark.parametrize("orientation", [1, 6])
def test_dct_scaling_leaves_at_least_twice_the_wanted_pixels_and_nearly_the_same_picture(orientation: int) -> None:
    data = saved(photo(800, 600), "JPEG", quality=95, exif=exif(orientation))
    for crop in (CENTRE, Crop(0.9, 0.1, 0.8, flip=True)):
        exact = decoded(data, (64, 64), crop=crop).astype(int)
        quick = decoded(data, (64, 64), crop=crop, fast_downscale=True).astype(int)
        assert 0 < np.abs(exact - quick).mean() < 1.5
        assert np.abs(exact - quick).max() < 24


def test_dct_scaling_does_nothing_below_four_times_the_wanted_size() -> None:
    data = saved(photo(254, 254), "JPEG")
    np.testing.assert_array_equal(decoded(data, (64, 64)), decoded(data, (64, 64), fast_downscale=True))


def test_a_crop_without_a_resize_is_a_copy_of_the_pixels() -> None:
    image = photo(70, 64)
    data = saved(image, "JPEG", quality=95)
    seen = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decoded(data, (64, 64)), seen[:, 3:67])
    np.testing.assert_array_equal(decoded(data, (64, 64), crop=Crop(across=0.99)), seen[:, 6:])
    np.testing.assert_array_equal(decoded(data, (64, 64), crop=Crop(across=0.0, flip=True)), seen[:, 63::-1])
