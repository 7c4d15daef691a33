"""Memory for batches that is used again: fresh pages for each batch would cost as much as a tenth of its decoding."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np

KEPT = 8  # free buffers of one size


class Buffers:
    """Arrays that go back when nobody holds them any more. Hand out tensors of them, and no numpy views.

    A tensor made by `torch.from_numpy` keeps its array alive; a numpy view keeps only the memory behind it.
    """

    def __init__(self) -> None:
        self._free: dict[int, deque[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array that is not filled."""
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        free = self._free.setdefault(num_bytes, deque(maxlen=KEPT))
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(num_bytes, np.uint8)
        array = memory.view(dtype).reshape(shape)
        weakref.finalize(array, free.append, memory).atexit = False
        return array
