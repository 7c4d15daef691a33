"""Several sources of data as one order: each has its exact share in every period, on any number of workers.

The shares of a period are rounded by largest remainder, its slots are spread evenly, and which slot is whose is a
table. So the position inside each source is a closed form of the global position, and stays the only state of a run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gen_dist.data.lanes import Lanes
from gen_dist.data.order import Order, Plan, permutation

SLOTS = 4096  # of a period, at least: shares are exact to 1 in 4096
_SLOTS = 2  # what a permutation is of


class Mixture:
    """Positions over all sources; sample numbers follow each other in the order of the sources.

    Lanes and runs of `plan` are those of the mixture; each source has its share of the window.
    """

    def __init__(self, *, seed: int, sources: Sequence[np.ndarray], weights: Sequence[float], plan: Plan) -> None:
        """`sources` are the samples in each block of each; `weights` are relative."""
        self.seed, self.plan = seed, plan
        rounds = math.ceil(SLOTS / (plan.num_lanes * plan.run))
        num_runs = plan.num_lanes * rounds
        self.period = num_runs * plan.run
        self.slots_of = shares(weights, self.period)
        """Of each source in every period."""
        self._source, quotas = _schedule(self.slots_of, num_runs=num_runs, run=plan.run, seed=seed)
        windows = [max(1, plan.window * int(slots) // self.period) for slots in self.slots_of]
        self._place = np.empty(self.period, np.int64)
        self._slots = [np.flatnonzero(self._source == number) for number in range(len(weights))]
        for slots in self._slots:
            self._place[slots] = np.arange(len(slots))
        self.orders = [
            Order(
                seed=(seed + number * 0x9E3779B97F4A7C15) % 2**64,
                num_in_block=blocks,
                plan=Plan(plan.num_lanes, window, plan.run),
                lanes=Lanes(quotas[number], plan.num_lanes),
            )
            for number, (blocks, window) in enumerate(zip(sources, windows, strict=True))
        ]
        sizes = [order.num_samples for order in self.orders]
        self._first_id = np.concatenate([[0], np.cumsum(sizes)])
        self.num_samples = int(self._first_id[-1])

    def ids(self, start: int, count: int) -> np.ndarray:
        """(count,) int64 sample numbers of the positions [start, start + count)."""
        return self.at(np.arange(start, start + count, dtype=np.int64))

    def at(self, positions: np.ndarray) -> np.ndarray:
        """(count,) int64 sample numbers of any positions (count,) int64."""
        ids = np.empty(len(positions), np.int64)
        source, inside = self.split(positions)
        for number in np.unique(source).tolist():
            here = source == number
            ids[here] = self._first_id[number] + self.orders[number].at(inside[here])
        return ids

    def section(self, position: int) -> tuple[int, int]:
        """[start, end): the stretch around a position in which no source begins an epoch but at its start."""
        starts: list[int] = [0]
        ends: list[int] = []
        periods, slot = divmod(position, self.period)
        for slots, order in zip(self._slots, self.orders, strict=True):
            taken = periods * len(slots) + int(np.searchsorted(slots, slot, "right"))  # up to and with `position`
            epoch = max(0, taken - 1) // order.num_samples
            for found, first in ((starts, epoch * order.num_samples), (ends, (epoch + 1) * order.num_samples)):
                if first:
                    found.append(first // len(slots) * self.period + int(slots[first % len(slots)]))
        return max(starts), min(ends)

    def split(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, position inside that source) of each position."""
        periods, slot = np.divmod(positions, self.period)
        source = self._source[slot]
        return source, periods * self.slots_of[source] + self._place[slot]


def shares(weights: Sequence[float], total: int) -> np.ndarray:
    """(sources,) int64 with sum `total`: largest remainder, and at least 1 each."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    found = np.maximum(1, np.floor(exact)).astype(np.int64)
    while found.sum() < total:
        found[np.argmax(exact - found)] += 1
    while found.sum() > total:
        found[np.argmax(np.where(found > 1, found - exact, -np.inf))] -= 1
    return found


def _schedule(slots_of: np.ndarray, *, num_runs: int, run: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(source of each slot (period,), quota of each source in each run (sources, runs))."""
    times = np.concatenate([(np.arange(count) + 0.5) / count for count in slots_of])
    owner = np.repeat(np.arange(len(slots_of)), slots_of)
    spread = owner[np.argsort(times, kind="stable")].reshape(num_runs, run)
    quotas = np.stack([(spread == number).sum(axis=1) for number in range(len(slots_of))])
    for number in range(num_runs):
        spread[number] = spread[number][permutation(run, seed=seed, about=(0, _SLOTS, number, 0))]
    return spread.reshape(-1), quotas
