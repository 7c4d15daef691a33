"""Batches made ahead of time by one background thread, which ends with the iterator, its stream or the program."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")
POLL_S = 0.05  # how soon a thread that waits for room sees that it should end
JOIN_S = 10.0  # how long we wait for a batch that is being made when we close


class Prefetch(Generic[T]):
    """Iterates over (position, make(position, count)); what `make` raises, the consumer gets at its turn."""

    def __init__(self, make: Callable[[int, int], T], positions: Iterable[tuple[int, int]], *, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"depth={depth}; use 1 or more")
        self._queue: queue.Queue[_Item[T]] = queue.Queue(depth)
        self._stop = threading.Event()
        # the thread holds no reference to us, so that an iterator nobody uses any more ends it
        thread = threading.Thread(
            target=_produce, args=(make, positions, self._queue, self._stop), name="gen-dist-prefetch", daemon=True
        )
        self._end = weakref.finalize(self, _end, self._stop, thread)  # also runs at exit, before threads are torn down
        thread.start()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def close(self) -> None:
        """Ends the thread; further iteration stops. Closing twice is fine."""
        self._end()

    def __iter__(self) -> Prefetch[T]:
        return self

    def __next__(self) -> tuple[int, T]:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=POLL_S * 20)
            except queue.Empty:
                continue
            if item.result is not None:
                return item.result
            self.close()
            if item.error is not None:
                raise item.error
        raise StopIteration


class _Item(Generic[T]):
    """A result, an error, or (neither) the end."""

    def __init__(self, result: tuple[int, T] | None = None, error: BaseException | None = None) -> None:
        self.result, self.error = result, error


def _produce(
    make: Callable[[int, int], T],
    positions: Iterable[tuple[int, int]],
    results: queue.Queue[_Item[T]],
    stop: threading.Event,
) -> None:
    last = _Item[T]()
    try:
        for position, count in positions:
            if stop.is_set() or not _put(results, _Item((position, make(position, count))), stop):
                return
    except BaseException as error:  # noqa: BLE001  handed to the consumer
        last = _Item(error=error)
    _put(results, last, stop)


def _put(results: queue.Queue[_Item[T]], item: _Item[T], stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            results.put(item, timeout=POLL_S)
            return True
        except queue.Full:
            continue
    return False


def _end(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    if thread is not threading.current_thread():
        thread.join(JOIN_S)
