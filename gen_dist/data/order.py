"""Which sample comes at which position of training: a pure function of the seed, never of the number of workers.

Blocks (8 MiB of neighbouring samples) are permuted anew each epoch, and the stream of permuted blocks is shared out
among *lanes*. Inside a lane, *windows* of samples are permuted. Positions visit the lanes in turn, a run of positions
at a time, and a run is one worker's micro-batch: worker r of W meets the lanes r, r + W, ... alone, as long as W
divides their number. So a worker reads its bytes once an epoch, in large pieces, and each batch mixes many shards.

The state of a run is one integer, the position. Everything else follows from `Plan`, which a checkpoint keeps.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from gen_dist.data.lanes import Lanes

NUM_LANES = 12  # at least: 1, 2, 3, 4, 6 and 12 workers divide it
LANE_BYTES = 64 << 20  # of data at least for a lane: 8 blocks to mix
KEPT_EPOCHS = 2
_BLOCKS, _WINDOW = 0, 1  # what a permutation is of
_STRIDE = 1 << 40  # above any number of windows of a lane


@dataclass(frozen=True)
class Plan:
    """What an order depends on besides the seed and the data. It stays what it was when the run began."""

    num_lanes: int
    window: int
    """Samples that are permuted at a time inside a lane."""
    run: int
    """Neighbouring positions in one lane: the micro-batch."""
    buckets: tuple[tuple[int, int], ...] = ()
    """(height, width) in pixels of aspect-ratio buckets; none: all pictures are of one size."""
    bucket_batch: int = 0
    """Positions of one size: the global batch."""
    bucket_window: int = 0
    """Batches that are put together anew at a time."""

    def __post_init__(self) -> None:
        sizes = tuple((height_px, width_px) for height_px, width_px in self.buckets)  # a checkpoint keeps lists
        object.__setattr__(self, "buckets", sizes)

    @classmethod
    def fitting(cls, *, num_samples: int, num_bytes: int, workers: int, shuffle_bytes: int, run: int) -> Plan:
        """The plan for at most `workers` workers that may each hold `shuffle_bytes` of undecoded samples."""
        wanted = math.lcm(workers, NUM_LANES)
        most = max(1, min(wanted, num_bytes // LANE_BYTES))
        num_lanes = max(divisor for divisor in range(1, most + 1) if wanted % divisor == 0)
        sample_bytes = max(1, num_bytes // num_samples)
        return cls(num_lanes, max(run, workers * shuffle_bytes // (num_lanes * sample_bytes)), run)


class Order:
    """Position p is a sample of epoch p // N, and each of N samples has one position in each epoch.

    `lanes` says how positions visit lanes; the default is a run each in turn.
    """

    def __init__(self, *, seed: int, num_in_block: np.ndarray, plan: Plan, lanes: Lanes | None = None) -> None:
        self.seed, self.plan = seed, plan
        end = np.cumsum(num_in_block, dtype=np.int64)
        self.num_samples = int(end[-1]) if len(end) else 0
        if self.num_samples < 1:
            raise ValueError("an order needs at least 1 sample")
        self._num_in_block, self._first = num_in_block, end - num_in_block
        self._lanes = lanes or Lanes(np.full(plan.num_lanes, plan.run), plan.num_lanes)
        self._phase = np.arange(plan.num_lanes) * plan.window // plan.num_lanes  # or all windows would begin at once
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def ids(self, start: int, count: int) -> np.ndarray:
        """(count,) int64 sample numbers of the positions [start, start + count), over as many epochs as they span."""
        if start < 0 or count < 0:
            raise ValueError(f"start={start}, count={count}; positions start at 0")
        return self.at(np.arange(start, start + count, dtype=np.int64))

    def at(self, positions: np.ndarray) -> np.ndarray:
        """(count,) int64 sample numbers of any positions (count,) int64."""
        epochs = positions // self.num_samples
        borders = np.flatnonzero(np.diff(epochs)) + 1
        parts = [
            self._in_epoch(int(part[0]) // self.num_samples, part) for part in np.split(positions, borders) if len(part)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def section(self, position: int) -> tuple[int, int]:
        """[start, end): the epoch that holds a position."""
        start = position // self.num_samples * self.num_samples
        return start, start + self.num_samples

    def _in_epoch(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        ids = np.empty(len(positions), np.int64)
        with self._lock:
            plan = self._epoch(epoch)
            lane, place = self._lanes.locate(positions)
            place -= plan.base[lane]
            window = (place + self._phase[lane]) // self.plan.window
            key = lane * _STRIDE + window
            together = np.argsort(key, kind="stable")
            for here in np.split(together, np.flatnonzero(np.diff(key[together])) + 1):
                number = int(key[here[0]])
                first, in_window = self._window(epoch, plan, number // _STRIDE, number % _STRIDE)
                ids[here] = in_window[place[here] - first]
        return ids

    def _window(self, epoch: int, plan: _Epoch, lane: int, window: int) -> tuple[int, np.ndarray]:
        """(first place in the lane, sample numbers in the order of places)."""
        first = max(0, window * self.plan.window - int(self._phase[lane]))
        key = (epoch, lane, window)
        if key not in self._windows:
            end = min(int(plan.length[lane]), (window + 1) * self.plan.window - int(self._phase[lane]))
            permuted = permutation(end - first, seed=self.seed, about=(epoch, _WINDOW, lane, window))
            stream = np.arange(plan.start[lane] + first, plan.start[lane] + end)
            block = np.searchsorted(plan.end, stream, "right")
            begin = plan.end[block] - self._num_in_block[plan.blocks[block]]
            self._windows[key] = (self._first[plan.blocks[block]] + stream - begin)[permuted]
            while len(self._windows) > 2 * self.plan.num_lanes:
                self._windows.popitem(last=False)
        self._windows.move_to_end(key)
        return first, self._windows[key]

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            blocks = permutation(len(self._first), seed=self.seed, about=(epoch, _BLOCKS, 0, 0))
            base = self._lanes.counts(epoch * self.num_samples)
            length = self._lanes.counts((epoch + 1) * self.num_samples) - base
            self._epochs[epoch] = _Epoch(
                blocks=blocks,
                end=np.cumsum(self._num_in_block[blocks], dtype=np.int64),
                base=base,
                length=length,
                start=np.cumsum(length) - length,
            )
            while len(self._epochs) > KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        return self._epochs[epoch]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epochs": OrderedDict(), "_windows": OrderedDict(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


@dataclass(frozen=True)
class _Epoch:
    """One epoch's stream of permuted blocks, and what part of it each lane has."""

    blocks: np.ndarray  # (blocks,) in the order of the stream
    end: np.ndarray  # (blocks,) int64, samples of the stream up to the end of each
    base: np.ndarray  # (lanes,) samples that each lane gave before this epoch
    length: np.ndarray  # (lanes,)
    start: np.ndarray  # (lanes,) in the stream


def permutation(count: int, *, seed: int, about: tuple[int, int, int, int]) -> np.ndarray:
    """(count,) int64: a permutation of range(count) that depends on the seed and on `about`, on every machine alike."""
    # numpy promises to keep Philox's raw numbers, but not what its shuffle makes of them; and it sorts numbers several
    # times faster than it finds their order, so each number carries its place in its low bits
    bits = max(1, (count - 1).bit_length())
    epoch, kind, lane, window = about
    key = np.array([seed % 2**64, epoch], np.uint64)
    draws = np.random.Philox(key=key, counter=[0, window, lane, kind]).random_raw(count)
    mask = np.uint64((1 << bits) - 1)
    draws &= ~mask
    draws |= np.arange(count, dtype=np.uint64)
    draws.sort()
    draws &= mask
    return draws.view(np.int64)
