"""Aspect-ratio buckets: batches of one shape each, near the shapes of their pictures, so that less is cut away.

The batches of a stretch of positions (a *super-window*) are put together anew: pictures of one bucket fill batches of
their own, and what is left over is sorted by aspect and shares batches. A position keeps its lane, so a worker reads
the bytes that it would read without buckets, and all of it is a function of the position: the state stays one integer.

Shapes: N samples; sizes are (height, width).
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from gen_dist.data.errors import DataError
from gen_dist.data.fields import FieldLike, Source
from gen_dist.data.index import Index
from gen_dist.data.order import Plan, permutation

Size = tuple[int, int]
SUPER_WINDOW = 64  # batches that are put together anew at a time, at most
STEP_PX = 64
STEPS = 8  # in the side of a small image
KEPT_WINDOWS = 4
ASPECTS_BYTES = 64 << 20  # of aspects kept in memory, 4 bytes each
TABLE_READS = 16  # sidecars read at once
LOOKED_AT = 16  # shards asked for sizes at the start
_BATCHES = 3  # what a permutation is of, beside those in order.py and mixture.py


def buckets(image_px: int, *, step_px: int = 0, multiple_px: int = 1, max_aspect: float = 2.0) -> list[Size]:
    """Sizes from tall to wide, none of more pixels than the square of `image_px`, which is among them.

    `step_px`: between neighbouring heights; default 64, or an eighth of a small image. All but the square are multiples
    of `multiple_px`.
    """
    step_px = -(-(step_px or min(STEP_PX, max(1, image_px // STEPS))) // multiple_px) * multiple_px
    found: dict[float, Size] = {1.0: (image_px, image_px)}
    for long_px in range(image_px // step_px * step_px + step_px, 2 * image_px * math.ceil(max_aspect), step_px):
        short_px = image_px**2 // long_px // step_px * step_px
        if short_px and long_px / short_px <= max_aspect:
            found.setdefault(long_px / short_px, (short_px, long_px))
            found.setdefault(short_px / long_px, (long_px, short_px))
    return [found[aspect] for aspect in sorted(found)]


class InnerOrder(Protocol):
    """The order that is grouped: `Order` or `Mixture`."""

    @property
    def plan(self) -> Plan: ...

    @property
    def num_samples(self) -> int: ...

    def ids(self, start: int, count: int) -> np.ndarray: ...

    def section(self, position: int) -> tuple[int, int]:
        """[start, end): the stretch around a position in which no epoch of a source begins but at its start."""
        ...


@dataclass(frozen=True)
class _Window:
    ids: np.ndarray  # (batches * B,)
    bucket: np.ndarray  # (batches,) number of the bucket of each


class Bucketed:
    """Global batches [t B, (t + 1) B) of one size each; B is `plan.bucket_batch`, sizes are `plan.buckets`.

    It permutes positions inside super-windows that no border of an epoch crosses, so each sample comes once an epoch as
    before; the batch that holds a border stays as it is. A picture of unknown size counts as a square.
    """

    def __init__(self, inner: InnerOrder, *, aspects: Callable[[np.ndarray], np.ndarray], seed: int) -> None:
        """`aspects`: sample numbers (count,) -> log of width / height (count,) float32, 0 where nobody knows."""
        self.inner, self.plan, self.num_samples = inner, inner.plan, inner.num_samples
        self._aspects, self._seed, self._batch = aspects, seed, self.plan.bucket_batch
        self._log_aspect = np.log([width_px / height_px for height_px, width_px in self.plan.buckets])
        self._borders = (self._log_aspect[1:] + self._log_aspect[:-1]) / 2
        run = self.plan.run
        # a worker's parts of a batch are those runs whose number has its rank as the rest by the number of workers
        self._classes = math.gcd(self.plan.num_lanes, self._batch // run) if self._batch % run == 0 else 1
        self._windows: OrderedDict[int, _Window] = OrderedDict()
        self._lock = threading.Lock()

    def ids(self, start: int, count: int) -> np.ndarray:
        """(count,) int64 sample numbers of the positions [start, start + count). Raises: DataError, StoreError."""
        if start < 0 or count < 0:
            raise ValueError(f"start={start}, count={count}; positions start at 0")
        parts, position = [np.empty(0, np.int64)], start
        while position < start + count:
            first, window = self._window(position // self._batch)
            skip = position - first * self._batch
            parts.append(window.ids[skip : skip + start + count - position])
            position += len(parts[-1])
        return np.concatenate(parts)

    def bucket(self, position: int) -> Size:
        """(height, width) in pixels of all pictures of the batch that holds a position. Raises: as `ids`."""
        first, window = self._window(position // self._batch)
        return self.plan.buckets[int(window.bucket[position // self._batch - first])]

    def _window(self, batch: int) -> tuple[int, _Window]:
        """(number of its first batch, the super-window that holds a batch)."""
        first, count = self._extent(batch)
        with self._lock:
            if first not in self._windows:
                self._windows[first] = self._grouped(first, count)
                while len(self._windows) > KEPT_WINDOWS:
                    self._windows.popitem(last=False)
            self._windows.move_to_end(first)
            return first, self._windows[first]

    def _extent(self, batch: int) -> tuple[int, int]:
        """(first batch, batches) of the super-window that holds a batch."""
        start, end = self.inner.section(batch * self._batch)
        if end < (batch + 1) * self._batch:
            return batch, 1
        first = -(-start // self._batch)
        num_batches = end // self._batch - first
        num_windows = -(-num_batches // self.plan.bucket_window)
        number = ((batch - first + 1) * num_windows - 1) // num_batches
        begin = number * num_batches // num_windows
        return first + begin, (number + 1) * num_batches // num_windows - begin

    def _grouped(self, first: int, count: int) -> _Window:
        """Shapes: b batches, c classes, q samples of a class in a batch, k buckets."""
        start, size, classes = first * self._batch, self._batch, self._classes
        ids = self.inner.ids(start, count * size)
        aspect = np.asarray(self._aspects(ids), np.float64)
        if count == 1:
            return _Window(ids, self._nearest(np.median(aspect, keepdims=True)))
        class_of = (np.arange(start, start + count * size) // self.plan.run) % classes
        slots_cbq = np.argsort(class_of, kind="stable").reshape(classes, count, size // classes)
        places_cn = slots_cbq.reshape(classes, -1)
        nearest_cn = self._nearest(aspect[places_cn])
        whole_k = np.stack([(nearest_cn == number).sum(axis=1) for number in range(len(self.plan.buckets))])
        whole_k = whole_k.min(axis=1) // (size // classes)  # batches that each class can fill its part of
        taken_cbq = np.empty_like(slots_cbq)
        for own, places, nearest in zip(taken_cbq, places_cn, nearest_cn, strict=True):
            full, rest = [], []
            for number, num_whole in enumerate(whole_k.tolist()):
                here = places[nearest == number]
                full.append(here[: num_whole * (size // classes)])
                rest.append(here[num_whole * (size // classes) :])
            left = np.sort(np.concatenate(rest))
            own[:] = np.concatenate([*full, left[np.argsort(aspect[left], kind="stable")]]).reshape(count, -1)
        mixed = aspect[taken_cbq].transpose(1, 0, 2).reshape(count, -1)
        bucket = self._nearest(np.median(mixed, axis=1))
        bucket[: whole_k.sum()] = np.repeat(np.arange(len(whole_k)), whole_k)
        turn = permutation(count, seed=self._seed, about=(0, _BATCHES, 0, first))
        placed = np.empty_like(ids)
        placed[slots_cbq] = ids[taken_cbq[:, turn]]
        return _Window(placed, bucket[turn])

    def _nearest(self, aspect: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._borders, aspect)


class Aspects:
    """Log of width / height of samples, from the tables of an index; kept in memory, 4 bytes each, for many shards."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """(count,) float32; 0 for a square and for an unknown size. Raises: DataError, StoreError."""
        shard_of = np.searchsorted(self._index.first_sample, ids, "right") - 1
        numbers, place = np.unique(shard_of, return_inverse=True)
        absent = [number for number in numbers.tolist() if number not in self._kept]
        if absent:
            with ThreadPoolExecutor(min(TABLE_READS, len(absent)), thread_name_prefix="gen-dist-sizes") as threads:
                self._kept.update(zip(absent, threads.map(self._of_shard, absent), strict=True))
        found = np.empty(len(ids), np.float32)
        for rank, number in enumerate(numbers.tolist()):
            self._kept.move_to_end(number)
            here = place == rank
            found[here] = self._kept[number][ids[here] - self._index.first_sample[number]]
        num_bytes = sum(aspects.nbytes for aspects in self._kept.values())
        while len(self._kept) > len(numbers) and num_bytes > ASPECTS_BYTES:
            num_bytes -= self._kept.popitem(last=False)[1].nbytes
        return found

    def _of_shard(self, number: int) -> np.ndarray:
        table = self._index.table(number)
        known = (table.width_px > 0) & (table.height_px > 0)
        aspects = np.zeros(len(known), np.float32)
        aspects[known] = np.log(table.width_px[known] / table.height_px[known])
        return aspects


def check_sizes(index: Index) -> None:
    """That the index tells sizes of pictures; asks a few shards. Raises: DataError where it does not, StoreError."""
    step = -(-len(index.shards) // LOOKED_AT)
    for number in range(0, len(index.shards), step):
        if index.shards[number].num_samples and not index.table(number).width_px.any():
            url = index.store_of(number).url
            raise DataError(
                "data.aspect_buckets needs the sizes of pictures, and nobody looked at these",
                shard=f"{url}/{index.shards[number].name}",
                remedy=f"run `gen-dist data index {url}`, without --headers-only, or set data.aspect_buckets = false",
            )


def with_buckets(plan: Plan, *, sizes: Sequence[Size], batch: int) -> Plan:
    """A plan whose super-windows fit into what workers hold to shuffle; `batch` is the global one."""
    window = max(1, min(SUPER_WINDOW, plan.num_lanes * plan.window // batch))
    return replace(plan, buckets=tuple(sizes), bucket_batch=batch, bucket_window=window)


def image_sizes(fields: Mapping[str, FieldLike], *, multiple_px: int) -> list[Size]:
    """The buckets of the first image of a recipe's fields; empty where there is none."""
    shape = next((tuple(field.shape) for field in fields.values() if field.kind == "image"), None)
    return buckets(math.isqrt(shape[1] * shape[2]), multiple_px=multiple_px) if shape else []


def resized(sources: Sequence[Source], size: Size) -> list[Source]:
    """The sources with the first image of this size, and further ones larger or smaller in proportion."""
    base = next((source.row_shape for source in sources if source.kind == "image"), (1, 1, 3))
    found = []
    for source in sources:
        if source.kind == "image":
            scale = math.sqrt(source.row_shape[0] * source.row_shape[1] / (base[0] * base[1]))
            height_px, width_px = (max(1, round(side_px * scale)) for side_px in size)
            source = replace(source, shape=(3, height_px, width_px), row_shape=(height_px, width_px, 3))
        found.append(source)
    return found
