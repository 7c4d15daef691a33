"""BlockReader: fetches blocks before they are needed, in the order in which they will be, and holds them meanwhile."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from gen_dist.data.block import Block, read_block
from gen_dist.data.buffers import Rooms
from gen_dist.data.fields import Source
from gen_dist.data.index import Index


@dataclass
class _Held:
    """A block that is here or on its way."""

    future: Future[Block]
    num_bytes: int
    left: int
    """Samples of it that nobody took yet in this epoch."""
    waiting: int = 0
    """Batches under way that need it."""


class BlockReader:
    """A block leaves when each of its samples was taken, or as the one used longest ago when `limit_bytes` is reached.

    The limit holds what is kept for later. What the batches under way need is always held, or they could not end.
    """

    def __init__(self, index: Index, sources: Sequence[Source], *, limit_bytes: int, num_threads: int) -> None:
        self._index, self._sources, self.limit_bytes = index, sources, limit_bytes
        self._block_bytes = index.blocks.num_bytes
        self._held: OrderedDict[int, _Held] = OrderedDict()
        self._rooms = Rooms(limit_bytes)
        self._held_bytes = 0
        self._lock = threading.Condition()
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="gen-dist-read")

    @property
    def held_bytes(self) -> int:
        """Of all blocks here or on their way."""
        return self._held_bytes

    def request(self, blocks: Iterable[int]) -> None:
        """Starts to fetch those that are not here. Each request ends with one `done`."""
        with self._lock:
            for number in blocks:
                held = self._held.get(number)
                if held is None:
                    size = int(self._block_bytes[number])
                    future = self._threads.submit(read_block, self._index, number, self._sources, self._rooms)
                    held = self._held[number] = _Held(future, size, int(self._index.blocks.num_samples[number]))
                    self._held_bytes += size
                held.waiting += 1
                self._held.move_to_end(number)
            self._evict()

    def block(self, number: int) -> Block:
        """Waits for a block that was requested. Raises: StoreError, DataError."""
        return self._held[number].future.result()

    def done(self, taken: Iterable[tuple[int, int]]) -> None:
        """Ends a request, by (block, samples taken from it)."""
        with self._lock:
            for number, count in taken:
                held = self._held[number]
                held.waiting -= 1
                held.left -= count
                if held.waiting == 0 and (held.left <= 0 or _failed(held.future)):
                    self._drop(number)
            self._evict()
            if not self._held:  # the end of a pass, such as over what is held out
                self._rooms.let_go()
            self._lock.notify_all()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether there is room to read further ahead; waits for it for a while."""
        with self._lock:
            return self._lock.wait_for(lambda: self._held_bytes <= self.limit_bytes, timeout_s)

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _evict(self) -> None:
        if self._held_bytes <= self.limit_bytes:
            return
        for number in [number for number, held in self._held.items() if held.waiting == 0]:
            self._drop(number)
            if self._held_bytes <= self.limit_bytes:
                return

    def _drop(self, number: int) -> None:
        self._held_bytes -= self._held.pop(number).num_bytes


def _failed(future: Future[Block]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)
