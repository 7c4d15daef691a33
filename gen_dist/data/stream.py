"""Batches of decoded samples by position, at once or ahead of time.

Shapes: B samples, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from gen_dist.data.cache import DecodedCache
from gen_dist.data.decode import DecodeError
from gen_dist.data.errors import DataError
from gen_dist.data.fields import FieldLike, check_fields, sources
from gen_dist.data.index import Index
from gen_dist.data.order import Order
from gen_dist.data.prefetch import Prefetch
from gen_dist.store import Store

if TYPE_CHECKING:
    from gen_dist.job.spec import DataSpec

Batch = dict[str, torch.Tensor | list[str]]
NUM_READERS = 4  # samples read and decoded at once; they wait for the store, or decode outside the interpreter's lock


class Stream:
    """The samples of an index, in the order of positions. A batch depends on nothing but its position and count.

    Every worker holds a stream over all shards and asks for its own positions, see `order.own_part`.
    """

    def __init__(
        self, store: Store, index: Index, *, fields: Mapping[str, FieldLike], spec: DataSpec, seed: int
    ) -> None:
        check_fields(index, fields, spec)
        self.index = index
        self.order = Order(seed=seed, num_samples=len(index))
        self._store = store
        self._sources = sources(fields, spec)
        self._cache = DecodedCache(self._sources, num_samples=len(index), cache_bytes=spec.cache_bytes)
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="gen-dist-read")
        self._prefetches: list[Prefetch[Batch]] = []

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

        An image field is uint8 (B, 3, H, W), a label int64 (B,), a caption a list of B texts.

        Raises: DataError for a sample that does not decode; StoreError.
        """
        ids = self.order.ids(position, count)
        rows, absent = self._cache.gather(ids)
        if len(absent):
            wanted = list(dict.fromkeys(ids[absent].tolist()))
            loaded = dict(zip(wanted, self._readers.map(self._load, wanted), strict=True))
            for row in absent.tolist():
                for name, value in loaded[int(ids[row])].items():
                    rows[name][row] = value
        return {
            source.name: rows[source.name].tolist() if source.kind == "caption" else torch.from_numpy(rows[source.name])
            for source in self._sources
        }

    def prefetch(self, positions: Iterable[tuple[int, int]], *, depth: int = 2) -> Prefetch[Batch]:
        """Iterates over (position, batch) for each (position, count), up to `depth` batches ahead in one thread."""
        self._prefetches = [running for running in self._prefetches if not running.closed]
        self._prefetches.append(Prefetch(self.batch, positions, depth=depth))
        return self._prefetches[-1]

    def close(self) -> None:
        """Ends all threads. Closing twice is fine."""
        for running in self._prefetches:
            running.close()
        self._readers.shutdown(cancel_futures=True)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self, sample_id: int) -> dict[str, np.ndarray | str | int]:
        """All fields of one sample, from one read that spans their members."""
        sample = self.index.sample(sample_id)
        chosen = [source.member(sample) for source in self._sources]
        spans = [sample.members[extension] for extension, _ in chosen]
        first = min((offset for offset, _ in spans), default=0)
        end = max((offset + size for offset, size in spans), default=0)
        data = self._store.read(sample.shard.name, first, end, version=sample.shard.version)
        if len(data) < end - first:
            raise DataError(
                f"the shard ends at byte {first + len(data)} inside this sample, which was whole when indexed",
                shard=f"{self._store.url}/{sample.shard.name}",
                key=sample.key,
                remedy="keep shards unchanged during a run, and restart it",
            )
        values: dict[str, np.ndarray | str | int] = {}
        for source, (extension, key), (offset, size) in zip(self._sources, chosen, spans, strict=True):
            try:
                values[source.name] = source.decode(data[offset - first : offset - first + size], key)
            except DecodeError as error:
                raise DataError(
                    f".{extension}: {error}",
                    shard=f"{self._store.url}/{sample.shard.name}",
                    key=sample.key,
                    remedy=f"replace or remove the sample, or correct data.{source.kind}",
                ) from error
        self._cache.put(sample_id, values)
        return values
