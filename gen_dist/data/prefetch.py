"""Batches made ahead of time: planned and requested far ahead, decoded a few ahead, handed out in order.

One background thread walks the plan and requests bytes; it ends with the iterator, its stream or the program. Decoding
starts when the consumer comes, for as many batches as may be under way.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Job = Any
POLL_S = 0.05  # how soon a thread that waits for room sees that it should end
JOIN_S = 10.0  # how long we wait for a step of the plan when we close
PLANNED = 32  # batches requested ahead, where memory allows


class Maker(Protocol[T_co]):
    """How a batch is made, in three steps."""

    def plan(self, position: int, count: int) -> Job:
        """Decides what the batch holds and requests its bytes. Never waits for them."""
        ...

    def start(self, job: Job) -> None:
        """Starts to decode."""
        ...

    def finish(self, job: Job) -> T_co:
        """Waits for the batch, or raises what went wrong."""
        ...

    def abandon(self, job: Job) -> None:
        """Lets go of what was planned."""
        ...

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether there is room to plan further ahead; waits for it for a while."""
        ...


class Prefetch(Generic[T]):
    """Iterates over (position, batch); what making a batch raises, the consumer gets at its turn."""

    def __init__(self, maker: Maker[T], positions: Iterable[tuple[int, int]], *, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"depth={depth}; use 1 or more")
        self._maker, self._depth = maker, depth
        self._planned: queue.Queue[_Item] = queue.Queue(max(PLANNED, depth))
        self._started: deque[_Item] = deque()
        self._stop = threading.Event()
        # the thread holds no reference to us, so that an iterator nobody uses any more ends it
        thread = threading.Thread(
            target=_walk, args=(maker, positions, self._planned, self._stop), name="gen-dist-prefetch", daemon=True
        )
        self._end = weakref.finalize(self, _end, self._stop, thread)  # also runs at exit, before threads are torn down
        thread.start()

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    @property
    def num_ready(self) -> int:
        """Batches planned or under way that the consumer has not asked for."""
        return self._planned.qsize() + len(self._started)

    def close(self) -> None:
        """Ends the thread; further iteration stops. Closing twice is fine."""
        self._end()
        for item in (*self._started, *_drained(self._planned)):
            if item.error is None and not item.last:
                self._maker.abandon(item.job)
        self._started.clear()

    def __iter__(self) -> Prefetch[T]:
        return self

    def __next__(self) -> tuple[int, T]:
        while not self._started and not self._stop.is_set():
            self._start_more(wait_s=POLL_S * 20)
        if self._stop.is_set():
            raise StopIteration
        item = self._started.popleft()
        if item.last or item.error is not None:
            self.close()
            if item.error is not None:
                raise item.error
            raise StopIteration
        try:
            batch = self._maker.finish(item.job)
        except BaseException:
            self.close()
            raise
        self._start_more(wait_s=0)
        return item.position, batch

    def _start_more(self, *, wait_s: float) -> None:
        while len(self._started) < self._depth:
            try:
                item = self._planned.get(wait_s > 0, wait_s or None)
            except queue.Empty:
                return
            wait_s = 0
            if item.error is None and not item.last:
                self._maker.start(item.job)
            self._started.append(item)


class Prefetches(Generic[T]):
    """Those of one stream that are under way."""

    def __init__(self) -> None:
        self._running: list[Prefetch[T]] = []

    def start(self, maker: Maker[T], positions: Iterable[tuple[int, int]], *, depth: int) -> Prefetch[T]:
        """A new one."""
        self._running = [running for running in self._running if not running.closed]
        self._running.append(Prefetch(maker, positions, depth=depth))
        return self._running[-1]

    @property
    def num_ready(self) -> int:
        """Batches of all of them that nobody has asked for yet."""
        return sum(running.num_ready for running in self._running if not running.closed)

    def close(self) -> None:
        """Ends all of them."""
        for running in self._running:
            running.close()
        self._running.clear()


class _Item:
    """A planned batch, an error, or the end."""

    def __init__(
        self, position: int = 0, job: Job = None, error: BaseException | None = None, *, last: bool = False
    ) -> None:
        self.position, self.job, self.error, self.last = position, job, error, last


def _walk(
    maker: Maker[Any], positions: Iterable[tuple[int, int]], planned: queue.Queue[_Item], stop: threading.Event
) -> None:
    last = _Item(last=True)
    try:
        for position, count in positions:
            # without anything planned the consumer would wait for room that only it can make
            while not stop.is_set() and not planned.empty() and not maker.wait_for_room(POLL_S):
                pass
            if stop.is_set():
                return
            job = maker.plan(position, count)
            if not _put(planned, _Item(position, job), stop):
                maker.abandon(job)
                return
    except BaseException as error:  # noqa: BLE001  handed to the consumer
        last = _Item(error=error)
    _put(planned, last, stop)


def _put(planned: queue.Queue[_Item], item: _Item, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            planned.put(item, timeout=POLL_S)
            return True
        except queue.Full:
            continue
    return False


def _drained(planned: queue.Queue[_Item]) -> list[_Item]:
    items = []
    while True:
        try:
            items.append(planned.get_nowait())
        except queue.Empty:
            return items


def _end(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    if thread is not threading.current_thread():
        thread.join(JOIN_S)
