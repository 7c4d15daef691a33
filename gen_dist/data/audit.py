"""The proof that a run used each sample once an epoch: checksums of its steps against those of the order.

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gen_dist.data.stream import OrderLike

MASK = (1 << 64) - 1
CHUNK = 1 << 20  # positions looked at together


@dataclass(frozen=True)
class Segment:
    """The positions that one checkpoint committed, and whether the run used the samples that stand there."""

    first: int
    end: int
    count: int
    """Samples that the workers took."""
    agrees: bool


@dataclass(frozen=True)
class Epoch:
    """How often the samples of one source occur in one of its epochs, as far as it was committed."""

    source: int
    number: int
    num_samples: int
    used_once: int
    used_more: int
    whole: bool
    """Whether the run got to its end."""

    @property
    def holds(self) -> bool:
        """Every sample once; in an epoch under way, none twice."""
        return self.used_more == 0 and (not self.whole or self.used_once == self.num_samples)


def fingerprint(ids: np.ndarray) -> int:
    """Sum over the samples of 64 mixed bits of their numbers, mod 2^64: equal for equal sets in any order.

    The mixing is SplitMix64's finalizer (Steele et al. 2014); ids are (N,) int64.
    """
    bits = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((bits ^ (bits >> np.uint64(31))).sum(dtype=np.uint64))


def check_segments(order: OrderLike, audit: Sequence[Sequence[int]]) -> list[Segment]:
    """Each committed stretch of positions, by (end, samples taken, checksum), against the order."""
    found, first = [], 0
    for end, count, checksum in audit:
        expected = 0
        for start in range(first, end, CHUNK):
            expected = (expected + fingerprint(order.ids(start, min(CHUNK, end - start)))) & MASK
        found.append(Segment(first, end, count, count == end - first and checksum == expected))
        first = end
    return found


def check_epochs(order: OrderLike, *, sizes: Sequence[int], end: int) -> list[Epoch]:
    """How often each sample of each source stands in each of its epochs, in the positions [0, end)."""
    starts = np.concatenate([[0], np.cumsum(sizes)])
    used = [np.zeros(size, np.int64) for size in sizes]
    taken = [0] * len(sizes)
    epochs: list[Epoch] = []
    for start in range(0, end, CHUNK):
        ids = order.ids(start, min(CHUNK, end - start))
        source_of = np.searchsorted(starts, ids, "right") - 1
        for source, size in enumerate(sizes):
            own = ids[source_of == source] - starts[source]
            while len(own):
                here, own = own[: size - taken[source]], own[size - taken[source] :]
                np.add.at(used[source], here, 1)
                taken[source] += len(here)
                if taken[source] == size:
                    epochs.append(_epoch(epochs, source, used[source], whole=True))
                    used[source][:], taken[source] = 0, 0
    for source in range(len(sizes)):
        if taken[source]:
            epochs.append(_epoch(epochs, source, used[source], whole=False))
    return epochs


def _epoch(before: Sequence[Epoch], source: int, used: np.ndarray, *, whole: bool) -> Epoch:
    number = sum(epoch.source == source for epoch in before)
    return Epoch(source, number, len(used), int((used == 1).sum()), int((used > 1).sum()), whole)
