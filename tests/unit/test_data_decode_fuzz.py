"""Damaged members: whatever the bytes, the answer is a result or a DecodeError of one line."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_dist.data.decode import DecodeError, decode_array_into, decode_caption, decode_image_into, decode_label
from tests.support.odd_images import exif, odd_images, photo, saved

ODD = odd_images()
IMAGES = [
    saved(photo(24, 24), "JPEG", exif=exif(6)),
    saved(photo(32, 32), "JPEG", progressive=True),
    saved(photo(40, 24).convert("CMYK"), "JPEG"),
    ODD["YCCK JPEG"][0],
    ODD["JPEG sampled four across, two down"][0],
    saved(photo(24, 24), "PNG", exif=exif(3)),
    *(ODD[name][0] for name in ("16-bit RGBA PNG", "animated GIF", "animated WebP", "animated PNG", "RGB TIFF")),
]
QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """An original with a few bytes overwritten, taken out or put in; mostly near its start, where the headers are."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(len(data), draw(st.sampled_from([64, 400, len(data)]))) - 1)))
        new = draw(st.one_of(st.binary(min_size=0, max_size=4), st.sampled_from([b"\xff", b"\0\0\0\0", b"\xff" * 4])))
        data[at : at + draw(st.integers(0, 6))] = new
    return bytes(data[: draw(st.sampled_from([len(data), len(data), len(data) // 2]))])


def survives(decode: Callable[[], object]) -> None:
    said = "pixels"
    try:
        decode()
    except DecodeError as error:
        said = str(error)
    assert said
    assert "\n" not in said


@QUICK
@given(damaged(IMAGES), st.booleans(), st.sampled_from([(24, 24), (32, 32), (5, 9)]))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_image_is_pixels_or_a_decode_error(data: bytes, fast: bool, size_px: tuple[int, int]) -> None:
    out = np.zeros((size_px[1], size_px[0], 3), np.uint8)
    survives(lambda: decode_image_into(data, out, fast_downscale=fast))


@QUICK
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0"])
)
@pytest.mark.filterwarnings("ignore")
def test_noise_behind_the_first_bytes_of_a_format_is_refused(noise: bytes, start: bytes) -> None:
    survives(lambda: decode_image_into(start + noise, np.zeros((8, 8, 3), np.uint8)))


def _npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(24, dtype=np.float16).reshape(4, 6))
    return file.getvalue()


@QUICK
@given(st.one_of(damaged([_npy()]), st.binary(max_size=64).map(lambda noise: b"\x93NUMPY\x01\0" + noise)))
def test_a_damaged_array_is_an_array_or_a_decode_error(data: bytes) -> None:
    survives(lambda: decode_array_into(data, np.zeros((4, 6), np.float16)))


@QUICK
@given(damaged([b'{"label": 3, "name": "a cat"}', b"17", "h\u00e9".encode(), b"[" * 3000]))
def test_a_damaged_text_is_a_text_or_a_decode_error(data: bytes) -> None:
    for key in ("", "label", "name"):
        survives(lambda key=key: decode_caption(data, key))
        survives(lambda key=key: decode_label(data, key))
