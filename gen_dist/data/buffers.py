"""Memory for batches and blocks that is used again.

Fresh pages for each batch would cost as much as a tenth of its decoding, and for each block a third of its transfer.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque

import numpy as np

KEPT = 8  # free batches of one size; free rooms when none is taken
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

    def __init__(self, limit_bytes: int) -> None:
        """Rooms that are taken and free ones that are kept are together at most `limit_bytes`, as long as no more are
        taken. All blocks of a shuffled window become free at about one time: where few are kept, the kernel has to
        clear memory for the next ones anew.
        """
        self._limit_bytes = limit_bytes
        self._free: deque[np.ndarray] = deque()
        self._taken_bytes = self._free_bytes = 0
        self._lock = threading.RLock()  # a room may go back while its thread is in here, by the collector of garbage

    def take(self, num_bytes: int) -> memoryview:
        """Bytes that are not filled."""
        with self._lock:
            memory = self._fitting(num_bytes)
            if memory is None:
                memory = np.empty(num_bytes, np.uint8)  # not filled with zeros under the interpreter's lock
            self._taken_bytes += len(memory)
            self._trim()
        room = memory[:num_bytes]
        weakref.finalize(room, self._give_back, memory).atexit = False
        return room.data

    def let_go(self) -> None:
        """Of free rooms but for a few, for it is not known when they are wanted again."""
        with self._lock:
            while len(self._free) > KEPT:
                self._free_bytes -= len(self._free.popleft())

    def _fitting(self, num_bytes: int) -> np.ndarray | None:
        for _ in range(len(self._free)):
            memory = self._free.popleft()
            if num_bytes <= len(memory) <= ROOMIER * num_bytes:
                self._free_bytes -= len(memory)
                return memory
            self._free.append(memory)
        return None

    def _give_back(self, memory: np.ndarray) -> None:
        with self._lock:
            self._taken_bytes -= len(memory)
            self._free_bytes += len(memory)
            self._free.append(memory)
            self._trim()

    def _trim(self) -> None:
        """The oldest go, so that sizes which are no longer asked for do."""
        while self._free and self._taken_bytes + self._free_bytes > self._limit_bytes:
            self._free_bytes -= len(self._free.popleft())
