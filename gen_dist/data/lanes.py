"""Lanes: how the positions of one source of data visit its lanes, a run each in turn.

A source that gives every sample has runs of one length. In a mixture it gives a quota of each run of the whole, and
the quotas repeat after a period.
"""

from __future__ import annotations

import numpy as np


class Lanes:
    """Run u of the period belongs to lane u % num_lanes and holds quota[u] positions of this source.

    Shapes: quota is (runs,) with a whole number of rounds of the lanes.
    """

    def __init__(self, quota: np.ndarray, num_lanes: int) -> None:
        if len(quota) % num_lanes or quota.min() < 0 or quota.sum() < 1:
            raise ValueError(f"{len(quota)} runs for {num_lanes} lanes; use whole rounds, and 1 position or more")
        self.num_lanes = num_lanes
        self._quota = quota.astype(np.int64)
        self._end = np.cumsum(self._quota)
        self.period = int(self._end[-1])
        """Positions after which the pattern repeats."""
        # of each run its own lane alone is kept, and no table of runs x lanes: 4,096 workers have 12,288 of both
        rounds = self._quota.reshape(-1, num_lanes)
        self._earlier = np.cumsum(rounds, axis=0) - rounds  # (rounds, lanes): positions of each lane before each round
        self._in_period = rounds.sum(axis=0)  # (lanes,)

    def locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(lane, number of earlier positions in that lane) of each position (count,) int64."""
        periods, rest = np.divmod(positions, self.period)
        run = np.searchsorted(self._end, rest, "right")
        lane = run % self.num_lanes
        inside = rest - (self._end[run] - self._quota[run])
        return lane, periods * self._in_period[lane] + self._earlier.reshape(-1)[run] + inside

    def counts(self, position: int) -> np.ndarray:
        """(lanes,) int64: how many of the first `position` positions each lane has."""
        periods, rest = divmod(position, self.period)
        run = int(np.searchsorted(self._end, rest, "right"))
        number, lane = divmod(run, self.num_lanes)
        found: np.ndarray = periods * self._in_period + self._earlier[number]
        found[:lane] += self._quota[run - lane : run]
        found[lane] += rest - int(self._end[run] - self._quota[run])
        return found
