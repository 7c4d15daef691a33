"""Shards without an index, read from front to back: what a run does with tars too large to look through beforehand.

Every worker has its own shards, permuted anew each pass, and shuffles within a buffer. So a batch is no function of its
position: what that costs is said by `Unindexed.loss`.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from gen_dist.data.augment import CENTRE, Augment, Augmentations, augmentations
from gen_dist.data.cache import DecodedCache
from gen_dist.data.decode import DecodeError
from gen_dist.data.errors import DataError
from gen_dist.data.fields import FieldLike, sources
from gen_dist.data.index.find import is_indexed, list_shards
from gen_dist.data.prefetch import Prefetch, Prefetches
from gen_dist.data.source import CHECKED, NOTHING, check_first, open_data_store
from gen_dist.data.stored import Stored, read_samples, shuffled
from gen_dist.data.stream import CHUNK, BadSample, Batch, batch_of
from gen_dist.store import ObjectInfo, Store

if TYPE_CHECKING:
    from gen_dist.data.derived import Facts
    from gen_dist.job.spec import DataSpec


@dataclass(frozen=True)
class Unindexed:
    """Shards of which nothing but names and sizes is known. It pickles, as `source.Data` does."""

    store: Store
    shards: list[ObjectInfo]

    @property
    def stores(self) -> list[Store]:
        """Each of those that samples come from."""
        return [self.store]

    @property
    def num_bytes(self) -> int:
        return sum(shard.size_bytes for shard in self.shards)

    @property
    def digest(self) -> str:
        """sha256 of the names and sizes of the shards: equal in a folder and in a bucket."""
        sha = hashlib.sha256(b"sequential\n")
        for shard in self.shards:
            sha.update(f"{shard.name}\0{shard.size_bytes}\n".encode("utf-8", "surrogatepass"))
        return sha.hexdigest()

    @property
    def loss(self) -> str:
        """What a run over these shards gives up, and the command that mends it: one line for a person."""
        return (
            f"the {len(self.shards):,} shards of {self.store.url} have no index, so they are read front to back: their"
            " samples are not counted, and nothing proves that each is used once an epoch; they are shuffled only among"
            " one worker's shards, within data.shuffle_bytes; a resumed run begins a new pass, in another order of"
            f" shards. `gen-dist data index {self.store.url}` mends all of this, for runs under a new name"
        )

    def check_workers(self, num_workers: int) -> None:
        """Raises: DataError where some worker would have no shard."""
        if len(self.shards) < num_workers:
            url = self.store.url
            raise DataError(
                f"{url}: {len(self.shards)} shards without an index for {num_workers} workers, and each needs its own",
                remedy=f"run `gen-dist data index {url}`, which shares out samples, or use at most"
                f" {len(self.shards)} workers",
            )


def find_unindexed(spec: DataSpec, *, made_with: Facts = NOTHING) -> tuple[Unindexed, Unindexed | None] | None:
    """The training and the held-out shards where a run is to stream them; None where it has or makes an index.

    Raises: DataError where no shard matches, or the job asks for what only an index gives; StoreError.
    """
    wanted = [(spec.url, spec.train), *([(spec.url, spec.heldout)] if spec.heldout else [])]
    found = []
    for url, pattern in [*wanted, *((mix.url, mix.train) for mix in spec.mix)]:
        store = open_data_store(spec, url)
        if not is_indexed(store):
            found.append(Unindexed(store, list_shards(store, pattern)))
    num_bytes = sum(data.num_bytes for data in found)
    if num_bytes <= spec.index_limit_bytes:
        return None
    needs = {
        "data.mix": bool(spec.mix),
        "data.derived": bool(spec.derived or made_with),
        "data.aspect_buckets": spec.aspect_buckets,
    }
    for key in [key for key, is_asked in needs.items() if is_asked]:
        url = found[0].store.url
        raise DataError(
            f"{key} needs an index, and {num_bytes:,} bytes of shards have none, above data.index_limit_bytes ="
            f" {spec.index_limit_bytes:,}",
            shard=url,
            remedy=f"run `gen-dist data index {url}`",
        )
    return found[0], found[1] if spec.heldout else None


def check_unindexed(data: Unindexed, *, fields: Mapping[str, FieldLike], spec: DataSpec) -> None:
    """That samples can be read, by the first few. Raises: DataError, StoreError."""
    with SequentialStream(data, fields=fields, spec=spec, seed=0) as stream:
        check_first(stream.batch(0, CHECKED))


@dataclass
class _Job:
    """One batch on its way."""

    position: int
    samples: list[Stored]
    augment: Augmentations | None
    num_bytes: int
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    weight: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    bad: list[BadSample] = field(default_factory=list)
    decoding: list[Future[None]] = field(default_factory=list)


class SequentialStream:
    """Stands in for `Stream` where there is no index: a position says only how many samples are wanted.

    Pass after pass, this worker takes its part of all shards; other workers may be in another pass, since nobody knows
    how many samples there are. In a batch `sample_id` (B,) int64 is a sample's place in its shard. A sample that an
    index would leave out, or that lacks a member, comes as one that cannot be decoded.
    """

    num_samples = None

    def __init__(
        self,
        data: Unindexed,
        *,
        fields: Mapping[str, FieldLike],
        spec: DataSpec,
        seed: int,
        rank: int = 0,
        num_workers: int = 1,
        started_at: int = 0,
    ) -> None:
        """`started_at`: images at which the run starts or goes on, so that it meets another order each time.

        Raises: DataError where there are fewer shards than workers.
        """
        data.check_workers(num_workers)
        self.data, self._rank, self._num_workers = data, rank, num_workers
        self._seed, self._started_at, self._limit_bytes = seed, started_at, spec.shuffle_bytes
        self._sources = sources(fields, spec)
        self._extensions = frozenset(extension for source in self._sources for extension in source.extensions)
        self._augment = Augment(crop=spec.crop, min_scale=spec.min_scale, flip=spec.flip)
        self._rows = DecodedCache(self._sources, num_samples=0, cache_bytes=0)
        self._decoders = ThreadPoolExecutor(spec.decode_threads, thread_name_prefix="gen-dist-decode")
        self._prefetches = Prefetches[Batch]()
        self._own = self._passes()
        self._reading, self._room = threading.Lock(), threading.Condition()
        self._held_bytes = 0
        self._closed = False

    @property
    def digest(self) -> str:
        """Of the data, see `Unindexed.digest`."""
        return self.data.digest

    def batch(self, position: int, count: int) -> Batch:
        """The samples [position, position + count) of all shards as they are stored, read from the first shard on.

        The same on every worker; meant for the few that are looked at. Raises: StoreError, DataError.
        """
        with closing(self._stored()) as stored:
            samples = list(islice(stored, position, position + count))
        job = self._job(position, samples)
        self.start(job)
        return self.finish(job)

    def prefetch(self, positions: Iterable[tuple[int, int]], *, depth: int = 4) -> Prefetch[Batch]:
        """Iterates over (position, batch) for each (position, count): this worker's next `count` samples."""
        return self._prefetches.start(self, positions, depth=depth)

    def metrics(self) -> dict[str, float]:
        """As `Stream.metrics`; the shuffle buffer is not in `held_bytes`."""
        counts, ahead = self.data.store.stats.counts(), self._prefetches.num_ready
        return {**counts, "held_bytes": self._held_bytes, "batches_ahead": ahead}

    def close(self) -> None:
        """Ends all threads. Closing twice is fine."""
        self._closed = True  # ends a pass under way at its next sample
        self._prefetches.close()
        self._decoders.shutdown(cancel_futures=True)
        with self._reading:
            self._own.close()

    def __enter__(self) -> SequentialStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(self, position: int, count: int) -> _Job:
        """Step 1 of a batch, see `prefetch.Maker`; here it reads, in the thread of the prefetch."""
        with self._reading:
            samples = list(islice(self._own, count))
        if len(samples) < count:
            raise RuntimeError("the stream is closed, or ended with an error before")
        return self._job(position, samples)

    def start(self, job: _Job) -> None:
        """Step 2."""
        job.rows, _ = self._rows.gather(np.zeros(len(job.samples), np.int64))
        job.weight = np.ones(len(job.samples), np.float32)
        for first in range(0, len(job.samples), CHUNK):
            chunk = range(first, min(first + CHUNK, len(job.samples)))
            job.decoding.append(self._decoders.submit(self._decode, job, chunk))

    def finish(self, job: _Job) -> Batch:
        """Step 3."""
        try:
            for decoding in job.decoding:
                decoding.result()
        finally:
            self.abandon(job)
        ids = np.array([sample.number for sample in job.samples], np.int64)
        return batch_of(self._sources, job.rows, ids=ids, weight=job.weight, bad=job.bad)

    def abandon(self, job: _Job) -> None:
        """Lets go of the bytes of a batch, once all that decode it have ended."""
        for decoding in job.decoding:
            if not decoding.cancel():
                decoding.exception()
        with self._room:
            self._held_bytes -= job.num_bytes
            self._room.notify_all()

    def wait_for_room(self, timeout_s: float) -> bool:
        """Whether there is room to read further ahead; waits for it for a while."""
        with self._room:
            return self._room.wait_for(lambda: self._held_bytes <= self._limit_bytes, timeout_s)

    def _job(self, position: int, samples: list[Stored]) -> _Job:
        augment = None
        if self._augment != Augment():
            augment = augmentations(self._seed, np.arange(position, position + len(samples)), self._augment)
        num_bytes = sum(sample.num_bytes for sample in samples)
        with self._room:
            self._held_bytes += num_bytes
        return _Job(position, samples, augment, num_bytes)

    def _passes(self) -> Generator[Stored, None, None]:
        """This worker's samples, without end."""
        number = 0
        while not self._closed:
            about = [self._seed, self._started_at, number]
            order = np.random.default_rng(about).permutation(len(self.data.shards))  # the same on all workers
            own = [self.data.shards[place] for place in order[self._rank :: self._num_workers].tolist()]
            random = np.random.default_rng([*about, self._rank])
            yield from shuffled(self._read(own), limit_bytes=self._limit_bytes, random=random)
            number += 1

    def _stored(self) -> Generator[Stored, None, None]:
        while not self._closed:
            yield from self._read(self.data.shards)

    def _read(self, shards: Sequence[ObjectInfo]) -> Iterator[Stored]:
        """Raises: DataError where they hold no sample, for a pass over nothing would never end."""
        found = False
        for shard in shards:
            for sample in read_samples(self.data.store, shard, self._extensions):
                if self._closed:
                    return
                found = True
                yield sample
        if not found:
            remedy = "write members as key.extension, for example 000001.png and 000001.txt"
            names = ", ".join(shard.name for shard in shards[:3]) + (", ..." if len(shards) > 3 else "")
            raise DataError(f"{self.data.store.url}: the shards hold no samples ({names})", remedy=remedy)

    def _decode(self, job: _Job, rows: Iterable[int]) -> None:
        for row in rows:
            sample, name = job.samples[row], ""
            crop = job.augment[row] if job.augment is not None else CENTRE
            try:
                if sample.fault:
                    raise DecodeError(sample.fault)
                for source in self._sources:
                    name = f"{source.name}: "
                    data, key = sample.member(source)
                    source.decode_into(job.rows[source.name], row, data, key, crop)
            except DecodeError as error:
                for source in self._sources:
                    source.clear(job.rows[source.name], row)
                job.weight[row] = 0.0
                reason = f"{name}{error}"
                job.bad.append(BadSample(job.position + row, sample.number, sample.shard, sample.key, reason))
