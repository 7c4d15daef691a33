"""The proof that a run used each sample once an epoch: checksums of its steps against those of the order.

What a checkpoint keeps says which samples the workers took between two commits; the order says which ones stand there.
Where both agree, counting the samples of the order counts those of the run.

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gen_dist.data.errors import DataError
from gen_dist.data.order import Plan
from gen_dist.data.stream import OrderLike

MASK = (1 << 64) - 1
STREAMED = {"kind": "sequential"}  # what a checkpoint keeps as the plan of a run that had no index
CHUNK = 1 << 17  # positions looked at together; more of them meet more windows, and cost more each


@dataclass(frozen=True)
class Kept:
    """What a checkpoint keeps of the samples that its run used."""

    plan: Plan
    audit: list[tuple[int, int, int]]
    """(end, samples taken, checksum) of each commit."""
    bad: list[int]
    """Positions whose samples could not be read."""
    skipped: list[tuple[int, int]] = field(default_factory=list)
    """(images seen, positions passed over there): where the run went back and left out what was no good for it."""

    @property
    def num_skipped(self) -> int:
        return sum(count for _, count in self.skipped)


@dataclass(frozen=True)
class Segment:
    """The positions that one checkpoint committed, and whether the run used the samples that stand there.

    A position is the images seen before it and what was passed over.
    """

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
    unreadable: int
    """Of the uses, those with weight 0."""
    whole: bool
    """Whether the run got to its end."""
    skipped: int = 0
    """Samples passed over, on purpose and on the record."""

    @property
    def missing(self) -> int:
        """Samples that a whole epoch did not use nor pass over; in an epoch under way they are still to come."""
        return self.num_samples - self.used_once - self.used_more - self.skipped if self.whole else 0

    @property
    def holds(self) -> bool:
        """Every sample once; in an epoch under way, none twice."""
        return self.used_more == 0 and self.missing == 0


@dataclass(frozen=True)
class Proof:
    """What came of an audit."""

    segments: list[Segment]
    epochs: list[Epoch]

    @property
    def holds(self) -> bool:
        return all(segment.agrees for segment in self.segments) and all(epoch.holds for epoch in self.epochs)


def fingerprint(ids: np.ndarray) -> int:
    """Sum over the samples of 64 mixed bits of their numbers, mod 2^64: equal for equal sets in any order.

    The mixing is SplitMix64's finalizer (Steele et al. 2014); ids are (N,) int64.
    """
    bits = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return int((bits ^ (bits >> np.uint64(31))).sum(dtype=np.uint64))


def kept(stream: Mapping[str, Any], *, where: str) -> Kept:
    """What `stream` of a checkpoint's manifest says. Raises: DataError where it says nothing, or what no run writes."""
    remedy = "audit a checkpoint that a run of this version wrote"
    if not stream:
        raise DataError("the checkpoint keeps no record of its samples", shard=where, remedy=remedy)
    if stream.get("plan") == STREAMED:
        remedy = "index the shards with `gen-dist data index`, and train under another name"
        raise DataError(
            "the run streamed shards without an index, so there is nothing to prove", shard=where, remedy=remedy
        )
    try:
        audit = [(int(end), int(count), int(checksum)) for end, count, checksum in stream["audit"]]
        skipped = [(int(at), int(count)) for at, count in stream.get("skipped", [])]
        return Kept(Plan(**stream["plan"]), audit, [int(bad["position"]) for bad in stream["bad"]], skipped)
    except (KeyError, TypeError, ValueError) as error:
        said = f"{type(error).__name__}: {error}"
        raise DataError(f"a damaged record of samples ({said})", shard=where, remedy=remedy) from None


def prove(
    order: OrderLike,
    found: Kept,
    *,
    sizes: Sequence[int],
    end: int,
    progress: Callable[[int], object] = lambda num_positions: None,
) -> Proof:
    """Whether a run that saw `end` images used what stands there, and how often that is each sample in each epoch.

    `sizes` are the samples of each source; `progress` hears of positions as they are looked at.
    """
    counters = [_Counter(source, size) for source, size in enumerate(sizes)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    bad = np.array(sorted(found.bad), np.int64)
    segments: list[Segment] = []
    epochs: list[Epoch] = []

    def look(first: int, last: int, *, used: bool) -> int:
        """Counts the samples of [first, last); returns their checksum."""
        checksum = 0
        for start in range(first, last, CHUNK):
            positions = np.arange(start, min(start + CHUNK, last))
            ids = order.ids(start, len(positions))
            checksum = (checksum + fingerprint(ids)) & MASK
            source_of = np.searchsorted(starts, ids, "right") - 1
            is_bad = np.isin(positions, bad)
            for source, counter in enumerate(counters):
                own = source_of == source
                epochs.extend(counter.add(ids[own] - starts[source], is_bad[own], used=used))
            progress(len(positions))
        return checksum

    shift, left = 0, sorted(found.skipped)
    for first, last, count, checksum in _stretches(found.audit, end):
        while left and left[0][0] <= first:
            _, num_skipped = left.pop(0)
            look(first + shift, first + shift + num_skipped, used=False)
            shift += num_skipped
        expected = look(first + shift, last + shift, used=True)
        agrees = last > first and count == last - first and checksum == expected
        segments.append(Segment(first + shift, last + shift, count, agrees))
    return Proof(segments, epochs + [counter.under_way() for counter in counters if counter.num_taken])


def _stretches(audit: Sequence[tuple[int, int, int]], end: int) -> Iterator[tuple[int, int, int, int]]:
    """(first, end, samples taken, checksum) of what each commit says of [0, end), and of what none says anything."""
    first = 0
    for last, count, checksum in audit:
        yield first, min(last, end), count, checksum
        first = max(first, min(last, end))
    if first < end:
        yield first, end, 0, 0


class _Counter:
    """Counts the uses of each sample of one source, epoch by epoch."""

    def __init__(self, source: int, size: int) -> None:
        self._source, self._size = source, size
        self._used = np.zeros(size, np.uint8)  # 2 is also for more: a byte a sample, for there may be billions
        self._number, self._num_bad, self._num_skipped = 0, 0, 0
        self.num_taken = 0
        """In the epoch under way."""

    def add(self, samples: np.ndarray, is_bad: np.ndarray, *, used: bool) -> list[Epoch]:
        """Takes the next positions, used or passed over; returns the epochs that they complete."""
        ended = []
        while len(samples):
            here = min(len(samples), self._size - self.num_taken)
            if used:
                which, times = np.unique(samples[:here], return_counts=True)
                self._used[which] = np.minimum(self._used[which] + times, 2)
                self._num_bad += int(is_bad[:here].sum())
            else:
                self._num_skipped += here
            self.num_taken += here
            samples, is_bad = samples[here:], is_bad[here:]
            if self.num_taken == self._size:
                ended.append(self.under_way())
                self._used[:] = 0
                self._number, self._num_bad, self._num_skipped, self.num_taken = self._number + 1, 0, 0, 0
        return ended

    def under_way(self) -> Epoch:
        once, more = (int((self._used == times).sum()) for times in (1, 2))
        whole = self.num_taken == self._size
        return Epoch(self._source, self._number, self._size, once, more, self._num_bad, whole, self._num_skipped)
