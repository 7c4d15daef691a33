"""Memory for batches and blocks that is used again.

Fresh pages for each batch would cost as much as a tenth of its decoding, and for each block a third of its transfer.
"""

from __future__ import annotations

import math
import weakref
from collections import deque

import numpy as np

KEPT = 8  # free batches of one size
ROOMIER = 1.25  # times the wanted bytes at most: what a kept room may be too large


class Buffers:
    """Arrays that go back when nobody holds them any more. Hand out tensors of them, and no numpy views.

    A tensor made by `torch.from_numpy` keeps its array alive; a numpy view keeps only the memory behind it.
    """

    def __init__(self) -> None:
        self._free: dict[int, deque[np.ndarray]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array that is not filled."""
        num_bytes = math.prod(shape) * dtype.itemsize
        free = self._free.setdefault(num_bytes, deque(maxlen=KEPT))
        try:
            memory = free.pop()
        except IndexError:
            memory = np.empty(num_bytes, np.uint8)
        array = memory.view(dtype).reshape(shape)
        weakref.finalize(array, free.append, memory).atexit = False
        return array


class Rooms:
    """Memory for blocks, whose sizes differ a little. A room goes back when no view of it is left; for any thread."""

    def __init__(self, kept_bytes: int) -> None:
        """Of free rooms at most `kept_bytes` are kept. All blocks of a shuffled window become free at about one time:
        where less is kept, most of the next window but one is memory that the kernel has to clear anew.
        """
        self._kept_bytes = kept_bytes
        self._free: deque[np.ndarray] = deque()

    def take(self, num_bytes: int) -> memoryview:
        """Bytes that are not filled."""
        memory = self._fitting(num_bytes)
        room = memory[:num_bytes]
        weakref.finalize(room, self._give_back, memory).atexit = False
        return room.data

    def _fitting(self, num_bytes: int) -> np.ndarray:
        for _ in range(len(self._free)):
            try:
                memory = self._free.popleft()
            except IndexError:
                break
            if num_bytes <= len(memory) <= ROOMIER * num_bytes:
                return memory
            self._free.append(memory)
        return np.empty(num_bytes, np.uint8)  # not filled with zeros under the interpreter's lock

    def _give_back(self, memory: np.ndarray) -> None:
        self._free.append(memory)
        while len(self._free) * len(memory) > self._kept_bytes:  # they are of one size, or nearly
            try:
                self._free.popleft()
            except IndexError:
                return
