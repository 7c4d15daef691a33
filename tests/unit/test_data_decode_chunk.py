"""Several members decoded together: each as if it came alone, whatever comes before and after it."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

from gen_dist.data.augment import CENTRE, Crop
from gen_dist.data.buffers import Rooms
from gen_dist.data.decode import DecodeError, decode_array_into, decode_arrays_into, decode_image_into
from gen_dist.data.decode import decode_images_into as decode_images

PX = 24


def image(width_px: int = PX, height_px: int = PX, *, mode: str = "RGB", kind: str = "JPEG", turn: int = 0) -> bytes:
    noise = np.random.default_rng(width_px * height_px).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    exif = Image.Exif()
    if turn:
        exif[0x0112] = turn
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind, **({"exif": exif} if turn else {}))
    return file.getvalue()


PICTURES = {
    "plain": image(),
    "grey": image(mode="L"),
    "cmyk": image(mode="CMYK"),
    "turned": image(turn=6),
    "small": image(8, 8),
    "large": image(64, 40),
    "png": image(kind="PNG"),
    "cut": image()[:-200],
    "text": b"no image",
    "none": b"",
    "start": b"\xff\xd8\xff",
    # what looks like the frame of the wanted size stands in a comment, and the picture has another
    "posing": image(8, 8)[:2]
    + b"\xff\xfe\0\x0c\xff\xc0\0\x11\x08"
    + PX.to_bytes(2, "big") * 2
    + b"\x03"
    + image(8, 8)[2:],
}


def said(decode: Callable[[], None]) -> str:
    """Why it did not decode, or nothing."""
    try:
        decode()
    except DecodeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("crop", [CENTRE, Crop(0.5, 0.1, 0.9, True)])
def test_pictures_decode_together_as_they_do_alone(crop: Crop) -> None:
    names = [*PICTURES, *reversed(PICTURES)]
    members = [(row, memoryview(PICTURES[name]), crop) for row, name in enumerate(names)]
    rows = np.zeros((len(names), PX, PX, 3), np.uint8)
    errors = decode_images(members, rows)
    for row, name in enumerate(names):
        alone = np.zeros((PX, PX, 3), np.uint8)
        fault = said(partial(decode_image_into, PICTURES[name], alone, crop=crop))
        assert str(errors.get(row, "")) == fault, name
        assert fault or np.array_equal(rows[row], alone), name
    assert {names[row] for row in errors} == {"cut", "text", "none", "start"}


def npy(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def test_arrays_decode_together_as_they_do_alone() -> None:
    good = [np.random.default_rng(seed).standard_normal((3, 5)).astype(np.float16) for seed in range(4)]
    stored = {
        "one": npy(good[0]),
        "two": npy(good[1]),
        "fortran": npy(np.asfortranarray(good[2])),
        "other shape": npy(good[3].reshape(5, 3)),
        "other type": npy(good[3].view(np.uint16)),
        "cut": npy(good[3])[:-1],
        "longer": npy(good[3]) + b"\0",
        "none": b"",
    }
    names = [name for first in stored for second in stored for name in (first, second)]
    rows = np.zeros((len(names), 3, 5), np.float16)
    errors = decode_arrays_into([(row, memoryview(stored[name])) for row, name in enumerate(names)], rows)
    for row, name in enumerate(names):
        alone = np.zeros((3, 5), np.float16)
        fault = said(partial(decode_array_into, stored[name], alone))
        assert str(errors.get(row, "")) == fault, name
        assert fault or np.array_equal(rows[row], alone), name
    assert {names[row] for row in errors} == set(stored) - {"one", "two", "fortran"}


def test_a_room_is_used_again_only_once_no_view_of_it_is_left() -> None:
    rooms = Rooms(4000)
    first = rooms.take(1000)
    first[:] = b"a" * 1000
    part = first[10:20]
    del first
    second = rooms.take(1000)
    second[:] = b"b" * 1000
    assert bytes(part) == b"a" * 10
    address = np.frombuffer(second, np.uint8).ctypes.data
    del second, part
    again = [rooms.take(990), rooms.take(990)]
    assert address in {np.frombuffer(room, np.uint8).ctypes.data for room in again}
    assert [len(room) for room in again] == [990, 990]
    assert len(rooms.take(10)) == 10  # far smaller ones do not take up large memory


def test_of_free_rooms_no_more_is_kept_than_was_said() -> None:
    rooms = Rooms(3000)
    held = [rooms.take(1000) for _ in range(5)]
    addresses = {np.frombuffer(room, np.uint8).ctypes.data for room in held}
    del held
    assert sum(map(len, rooms._free)) == 3000
    again = [rooms.take(1000) for _ in range(3)]
    assert {np.frombuffer(room, np.uint8).ctypes.data for room in again} < addresses
