"""Decoded samples kept in memory, so that a batch of kept samples costs one gather a field."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from gen_dist.data.buffers import Buffers
from gen_dist.data.fields import Source


class DecodedCache:
    """Rows of decoded fields, bounded in bytes. Filled first come, never evicted.

    Every epoch visits every sample in a new order: what was used last is then no more likely to come next, and
    eviction would only cost decodes.
    """

    def __init__(self, sources: Sequence[Source], *, num_samples: int, cache_bytes: int) -> None:
        self.capacity = min(num_samples, cache_bytes // max(1, sum(source.row_bytes for source in sources)))
        self._sources, self._buffers = sources, Buffers()
        self._columns = {source.name: source.empty(self.capacity) for source in sources}  # paged in on use
        self._slot_of = np.full(num_samples if self.capacity else 0, -1, np.int64)
        self._num_used = 0
        self._lock = threading.Lock()

    def absent(self, ids: np.ndarray) -> np.ndarray:
        """Rows of `ids` (count,) that are not kept."""
        return np.flatnonzero(self._slot_of[ids] < 0) if self.capacity else np.arange(len(ids))

    def gather(self, ids: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """New arrays (count, ...) of each field, and the rows of them that are not kept and so not filled."""
        if not self.capacity:
            return {source.name: self._rows(source, len(ids)) for source in self._sources}, np.arange(len(ids))
        slots = self._slot_of[ids]
        absent = np.flatnonzero(slots < 0)
        rows: dict[str, np.ndarray] = {}
        for source in self._sources:
            out = rows[source.name] = self._rows(source, len(ids))
            if not len(absent):
                np.take(self._columns[source.name], slots, axis=0, out=out, mode="clip")  # "raise" would copy twice
            elif len(absent) < len(ids):
                out[slots >= 0] = self._columns[source.name][slots[slots >= 0]]
        return rows, absent

    def _rows(self, source: Source, count: int) -> np.ndarray:
        """Rows of a batch, not filled."""
        if source.dtype.hasobject or not count:
            return source.empty(count)
        return self._buffers.take((count, *source.row_shape), source.dtype)

    def put(self, sample_id: int, rows: Mapping[str, np.ndarray], row: int) -> None:
        """Keeps one row of a batch while there is room."""
        if self._num_used == self.capacity:
            return
        with self._lock:
            if self._num_used == self.capacity or self._slot_of[sample_id] >= 0:
                return
            for name, column in self._columns.items():
                column[self._num_used] = rows[name][row]
            self._slot_of[sample_id] = self._num_used  # last: a reader without the lock sees whole rows
            self._num_used += 1
