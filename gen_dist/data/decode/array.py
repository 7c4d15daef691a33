"""From the bytes of an `.npy` member (a latent, a text embedding) to a row of a batch, in about a microsecond."""

from __future__ import annotations

import functools
import io
import tokenize
from collections.abc import Sequence
from typing import Literal

import numpy as np

from gen_dist.data.decode.errors import Buffer, DecodeError, one_line

_LONGEST_HEADER_BYTES = 10_000  # numpy's own limit; a plain array's header takes 118


def decode_array_into(data: Buffer, out: np.ndarray) -> None:
    """The array of an `.npy` member, copied into `out`, whose shape and dtype it must have.

    Raises: DecodeError where shape, dtype or length differ, and for what is no `.npy`; Python objects are never read.
    """
    if len(data) < 12:
        raise DecodeError(f"no .npy of {len(data)} bytes: the shortest header takes more")
    start = 10 + (data[8] | data[9] << 8) if data[6] == 1 else 12 + int.from_bytes(bytes(data[8:12]), "little")
    if start > min(len(data), _LONGEST_HEADER_BYTES):
        raise DecodeError(f"no .npy: its header would end at byte {start} of {len(data)}")
    shape, dtype, order = _header(bytes(data[:start]))
    if shape != out.shape or dtype != out.dtype:
        raise DecodeError(f"the .npy holds {dtype} {shape}; the field wants {out.dtype} {out.shape}")
    if len(data) - start != out.nbytes:
        raise DecodeError(
            f"the .npy has {len(data) - start} bytes after its header, and {dtype} {shape} takes {out.nbytes}"
        )
    if order == "C" and out.flags.c_contiguous:
        # numpy lets go of the interpreter's lock for a copy, and getting it back takes longer than the copy
        out.reshape(-1).view(np.uint8).data[:] = memoryview(data)[start:]
    else:
        out[...] = np.ndarray(shape, dtype, data, start, None, order)


def decode_arrays_into(members: Sequence[tuple[int, Buffer]], rows: np.ndarray) -> dict[int, DecodeError]:
    """(row, bytes) each as `decode_array_into` into `rows` (B, ...), and the errors by row.

    The arrays of a data set begin alike: what begins as the one before it did is copied without another look.
    """
    errors = {}
    row_bytes = rows[0].nbytes
    flat = rows.reshape(-1).view(np.uint8).data if rows.flags.c_contiguous and row_bytes else None
    header, size_bytes = b"", 0
    for row, data in members:
        if flat is not None and len(data) == size_bytes and bytes(data[: len(header)]) == header:
            flat[row * row_bytes : (row + 1) * row_bytes] = memoryview(data)[len(header) :]
            continue
        try:
            decode_array_into(data, rows[row])
        except DecodeError as error:
            errors[row] = error
            continue
        known = bytes(data[: len(data) - row_bytes])
        if _header(known)[2] == "C":
            header, size_bytes = known, len(data)
    return errors


@functools.lru_cache(maxsize=256)  # the members of a data set share a handful of headers; parsing one takes 50 us
def _header(header: bytes) -> tuple[tuple[int, ...], np.dtype, Literal["C", "F"]]:
    """(shape, dtype, "F" where the first axis is the fastest). Raises: DecodeError."""
    file = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise DecodeError(
                f"an .npy of version {version}, which only arrays of named fields need; store a plain array"
            )
    except (ValueError, TypeError, SyntaxError, RecursionError, tokenize.TokenError) as error:
        raise error if isinstance(error, DecodeError) else DecodeError(f"no .npy header ({one_line(error)})") from error
    return shape, dtype, "F" if fortran_order else "C"
