"""Batches of decoded samples by position, at once or ahead of time.

Shapes: B samples, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from gen_dist.data.augment import CENTRE, Augment, Augmentations, augmentations
from gen_dist.data.block import Block
from gen_dist.data.buckets import Bucketed, resized
from gen_dist.data.cache import DecodedCache
from gen_dist.data.fields import FieldLike, Member, Source, check_fields, placed, sources
from gen_dist.data.index import Index
from gen_dist.data.order import Plan
from gen_dist.data.prefetch import Prefetch, Prefetches
from gen_dist.data.reader import BlockReader

if TYPE_CHECKING:
    from gen_dist.job.spec import DataSpec

Batch = dict[str, Any]
CHUNK = 16  # samples that one thread decodes at a time
CHUNK_WITHOUT_IMAGES = 128  # of texts and arrays, which take less time than handing them to a thread


class OrderLike(Protocol):
    """Which sample comes at which position."""

    @property
    def plan(self) -> Plan: ...

    @property
    def num_samples(self) -> int:
        """In one epoch."""
        ...

    def ids(self, start: int, count: int) -> np.ndarray:
        """(count,) int64 sample numbers of the positions [start, start + count)."""
        ...


@dataclass(frozen=True)
class BadSample:
    """A sample that could not be decoded when its turn came."""

    position: int
    sample_id: int
    shard: str
    key: str
    reason: str


@dataclass
class _Job:
    """One batch on its way."""

    position: int
    ids: np.ndarray
    needs: dict[int, int]
    """Block -> samples that this batch takes from it."""
    augment: Augmentations | None
    cache: DecodedCache
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    weight: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    bad: list[BadSample] = field(default_factory=list)
    decoding: list[Future[None]] = field(default_factory=list)


class Stream:
    """The samples of an index, in the order of positions. A batch depends on nothing but its position and count.

    Every worker holds a stream over all shards and asks for its own positions. Besides the recipe's fields a batch has
    `sample_id` (B,) int64, `weight` (B,) float32: 1, or 0 for a sample that could not be decoded, and `bad`: those.
    """

    def __init__(
        self, index: Index, order: OrderLike, *, fields: Mapping[str, FieldLike], spec: DataSpec, seed: int
    ) -> None:
        check_fields(index, fields, spec)
        self.index, self.order = index, order
        self._seed, self._sources = seed, placed(sources(fields, spec), index)
        self._augment = Augment(crop=spec.crop, min_scale=spec.min_scale, flip=spec.flip)
        # what is drawn anew is not kept, nor what may have another size in the next epoch
        cache_bytes = spec.cache_bytes if self._augment == Augment() and not order.plan.buckets else 0
        self._cache = DecodedCache(self._sources, num_samples=len(index), cache_bytes=cache_bytes)
        self._cache_of = {
            size: DecodedCache(resized(self._sources, size), num_samples=0, cache_bytes=0)
            for size in order.plan.buckets
        }
        self._reader = BlockReader(
            index, self._sources, limit_bytes=2 * spec.shuffle_bytes, num_threads=spec.read_threads
        )
        self._chunk = CHUNK if any(source.kind == "image" for source in self._sources) else CHUNK_WITHOUT_IMAGES
        self._decoders = ThreadPoolExecutor(spec.decode_threads, thread_name_prefix="gen-dist-decode")
        self._prefetches = Prefetches[Batch]()

    @property
    def num_samples(self) -> int:
        """In one epoch."""
        return len(self.index)

    @property
    def digest(self) -> str:
        """Of the data, see `Index.digest`."""
        return self.index.digest

    def batch(self, position: int, count: int) -> Batch:
        """The samples of the global positions [position, position + count).

        An image field is uint8 (B, 3, H, W), a label int64 (B,), a caption a list of B texts. With aspect-ratio buckets
        H and W are those of the global batch that these are a part of.

        Raises: StoreError; DataError where a shard became shorter.
        """
        job = self.plan(position, count)
        self.start(job)
        return self.finish(job)

    def prefetch(self, positions: Iterable[tuple[int, int]], *, depth: int = 4) -> Prefetch[Batch]:
        """Iterates over (position, batch) for each (position, count), with up to `depth` batches being decoded."""
        return self._prefetches.start(self, positions, depth=depth)

    def metrics(self) -> dict[str, float]:
        """What the stream did so far: bytes, requests and retries of its stores, and how far it is ahead."""
        counts = self.index.store_counts()
        return {**counts, "held_bytes": self._reader.held_bytes, "batches_ahead": self._prefetches.num_ready}

    def close(self) -> None:
        """Ends all threads. Closing twice is fine."""
        self._prefetches.close()
        self._decoders.shutdown(cancel_futures=True)
        self._reader.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(self, position: int, count: int) -> _Job:
        """Step 1 of a batch, see `prefetch.Maker`."""
        ids = self.order.ids(position, count)
        cache = self._cache_at(position, count)
        absent = cache.absent(ids)
        blocks, taken = np.unique(self.index.blocks_of(ids[absent]), return_counts=True)
        needs = dict(zip(blocks.tolist(), taken.tolist(), strict=True))
        augment = None
        if self._augment != Augment():
            augment = augmentations(self._seed, np.arange(position, position + count), self._augment)
        self._reader.request(needs)
        return _Job(position, ids, needs, augment, cache)

    def start(self, job: _Job) -> None:
        """Step 2."""
        job.rows, absent = job.cache.gather(job.ids)
        job.weight = np.ones(len(job.ids), np.float32)
        if len(absent):
            block_of = self.index.blocks_of(job.ids)
            here = np.argsort(block_of[absent], kind="stable")  # a thread meets few blocks
            order = absent[here]
            for first in range(0, len(order), self._chunk):
                chunk = order[first : first + self._chunk].tolist()
                job.decoding.append(self._decoders.submit(self._decode, job, chunk, block_of))

    def finish(self, job: _Job) -> Batch:
        """Step 3."""
        try:
            for decoding in job.decoding:
                decoding.result()
        except BaseException:
            self.abandon(job)
            raise
        self._reader.done(job.needs.items())
        return batch_of(self._sources, job.rows, ids=job.ids, weight=job.weight, bad=job.bad)

    def abandon(self, job: _Job) -> None:
        """Lets go of the blocks of a batch, once all that decode it have ended."""
        for decoding in job.decoding:
            if not decoding.cancel():
                decoding.exception()
        self._reader.done(job.needs.items())

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether there is room to plan further ahead."""
        return self._reader.wait_for_room(timeout_s)

    def _cache_at(self, position: int, count: int) -> DecodedCache:
        """With rows of the size that pictures have there."""
        if not isinstance(self.order, Bucketed):
            return self._cache
        batch = self.order.plan.bucket_batch
        if position // batch != max(position, position + count - 1) // batch:
            raise ValueError(f"positions [{position}, {position + count}) are of several batches of {batch}, so sizes")
        return self._cache_of[self.order.bucket(position)]

    def _decode(self, job: _Job, rows: list[int], block_of: np.ndarray) -> None:
        # the interpreter's lock is held for all but the decoders, and what is here is done for each sample
        ids, numbers, blocks = job.ids.tolist(), block_of[rows].tolist(), dict[int, Block]()
        wanted: list[tuple[int, Block, int]] = []
        for row, number in zip(rows, numbers, strict=True):
            block = blocks.get(number) or blocks.setdefault(number, self._reader.block(number))
            wanted.append((row, block, ids[row] - block.first_id))
        faults: dict[int, str] = {}
        for at, source in enumerate(self._sources):
            members: list[Member] = []
            for row, block, place in wanted:
                if row not in faults:
                    key = source.members[block.choice[at][place]][1]
                    crop = job.augment[row] if job.augment is not None else CENTRE
                    members.append((row, block.member(at, place), key, crop))
            for row, error in source.decode_all_into(job.rows[source.name], members).items():
                faults[row] = f"{source.name}: {error}"
        for row in rows:
            if row in faults:
                self._leave_empty(job, row, faults[row])
            elif job.cache.capacity:
                job.cache.put(ids[row], job.rows, row)

    def _leave_empty(self, job: _Job, row: int, reason: str) -> None:
        sample_id = int(job.ids[row])
        for source in self._sources:
            source.clear(job.rows[source.name], row)
        job.weight[row] = 0.0
        shard, table_row = self.index.locate(sample_id)
        url = f"{self.index.store_of(shard).url}/{self.index.shards[shard].name}"
        key = self.index.table(shard).key(table_row)
        job.bad.append(BadSample(job.position + row, sample_id, url, key, reason))


def batch_of(
    sources: Iterable[Source],
    rows: Mapping[str, np.ndarray],
    *,
    ids: np.ndarray,
    weight: np.ndarray,
    bad: Iterable[BadSample],
) -> Batch:
    """A batch of decoded rows, without a copy."""
    batch: Batch = {
        "sample_id": torch.from_numpy(ids),
        "weight": torch.from_numpy(weight),
        "bad": sorted(bad, key=lambda sample: sample.position),
    }
    for source in sources:
        if source.kind == "caption":
            batch[source.name] = rows[source.name].tolist()
        else:
            tensor = torch.from_numpy(rows[source.name])
            batch[source.name] = tensor.permute(0, 3, 1, 2) if source.kind == "image" else tensor
    return batch
