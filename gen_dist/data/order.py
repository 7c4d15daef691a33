"""Which sample comes at which position of training: a pure function of the seed, never of the number of workers."""

from __future__ import annotations

from typing import Any

import numpy as np


class Order:
    """Position p is sample `permutation(epoch)[p % N]` of epoch p // N: each of N samples once in each epoch.

    Every epoch has a permutation of its own, from Philox keyed by (seed, epoch). The one in use is kept, and no more.
    """

    def __init__(self, *, seed: int, num_samples: int) -> None:
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples}; an order needs at least 1")
        self.seed, self.num_samples = seed, num_samples
        self._kept: tuple[int, np.ndarray] | None = None

    def ids(self, start: int, count: int) -> np.ndarray:
        """(count,) int64 sample numbers of the positions [start, start + count), over as many epochs as they span."""
        if start < 0 or count < 0:
            raise ValueError(f"start={start}, count={count}; positions start at 0")
        pieces = []
        while count > 0:
            epoch, first = divmod(start, self.num_samples)
            piece = self._permutation(epoch)[first : first + count]
            pieces.append(piece)
            start, count = start + len(piece), count - len(piece)
        return np.concatenate(pieces) if pieces else np.empty(0, np.int64)

    def _permutation(self, epoch: int) -> np.ndarray:
        kept = self._kept  # one read, so that threads need no lock
        if kept is None or kept[0] != epoch:
            key = np.array([self.seed % 2**64, epoch], np.uint64)
            # numpy promises to keep Philox's raw numbers, but not what its shuffle makes of them
            draws = np.random.Philox(key=key).random_raw(self.num_samples)
            ids = np.argsort(draws, kind="stable").astype(np.int64, copy=False)
            kept = self._kept = (epoch, ids)
        return kept[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"seed": self.seed, "num_samples": self.num_samples, "_kept": None}


def own_part(position: int, count: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """The (position, count) of one worker's part of the global positions [position, position + count).

    Parts follow each other in the order of ranks, cover everything, and differ by at most one sample.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} of world_size={world_size}; ranks are 0 to world_size - 1")
    first, end = count * rank // world_size, count * (rank + 1) // world_size
    return position + first, end - first
