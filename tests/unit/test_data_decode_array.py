"""Arrays: a member has the field's shape and dtype, or it is refused with what it has."""

from __future__ import annotations

import io

import numpy as np
import pytest

from gen_dist.data.decode import DecodeError, decode_array_into


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (4, 8, 8), (2, 1, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_an_array_arrives_as_it_was_saved(dtype: str, shape: tuple[int, ...], order: str, version: tuple) -> None:
    array = np.asarray(np.random.default_rng(1).integers(0, 100, shape).astype(dtype), order=order)
    batch = np.zeros((3, *shape), dtype)
    for data in (npy(array, version), memoryview(npy(array, version))):
        batch[:] = 0
        decode_array_into(data, batch[1:2].reshape(shape))
        np.testing.assert_array_equal(batch[1], array)
        assert not batch[[0, 2]].any()


def test_bits_of_infinities_and_nans_are_kept() -> None:
    array = np.array([0x7E01, 0x7C00, 0xFC00, 0x8000], np.uint16).view(np.float16)
    out = np.zeros(4, np.float16)
    decode_array_into(npy(array), out)
    assert out.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (npy(np.zeros((4, 8, 9), "f2")), r"holds float16 \(4, 8, 9\); the field wants float16 \(4, 8, 8\)"),
        (npy(np.zeros((4, 8, 8), "f4")), "holds float32"),
        (npy(np.zeros((4, 8, 8), ">f2")), "holds >f2"),
        (npy(np.zeros((4, 8, 8), [("a", "f2")])), r"holds \[\('a', '<f2'\)\]"),
        (npy(np.zeros((4, 8, 8), "f2"))[:-1], "has 511 bytes after its header, and float16 .* takes 512"),
        (npy(np.zeros((4, 8, 8), "f2")) + b"\0", "has 513 bytes"),
        (npy(np.zeros((4, 8, 8), "f2"))[:64], "header would end at byte 128 of 64"),
        (b"", "no .npy of 0 bytes"),
        (b"not an array at all, but long enough for a header " * 9, "no .npy"),
        (b"\x93NUMPY\x03\x00\x10\x00\x00\x00" + b"{}".ljust(20), "version"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': 1}    ", "no .npy header"),
    ],
)
def test_another_array_is_refused_with_what_it_is(data: bytes, says: str) -> None:
    with pytest.raises(DecodeError, match=says) as caught:
        decode_array_into(data, np.zeros((4, 8, 8), np.float16))
    assert "\n" not in str(caught.value)


def test_python_objects_are_never_unpickled() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DecodeError, match="holds object"):
        decode_array_into(file.getvalue(), np.zeros(1, np.float32))
