"""Decoded samples kept in memory, so that a batch of kept samples costs one gather a field."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from gen_dist.data.fields import DTYPES, Source

CAPTION_BYTES = 256  # what one caption is taken to cost


class DecodedCache:
    """Rows of decoded fields, bounded in bytes. Filled first come, never evicted.

    Every epoch visits every sample in a new order: what was used last is then no more likely to come next, and
    eviction would only cost decodes.
    """

    def __init__(self, sources: Sequence[Source], *, num_samples: int, cache_bytes: int) -> None:
        row_bytes = sum({"image": int(np.prod(s.shape)), "caption": CAPTION_BYTES, "label": 8}[s.kind] for s in sources)
        self.capacity = min(num_samples, cache_bytes // max(1, row_bytes))
        self._columns: dict[str, np.ndarray] = {
            s.name: np.empty((self.capacity, *s.shape), DTYPES[s.kind]) for s in sources
        }  # paged in on use
        self._shapes = {s.name: (s.shape, DTYPES[s.kind]) for s in sources}
        self._slot_of = np.full(num_samples, -1, np.int64)
        self._num_used = 0
        self._lock = threading.Lock()

    def gather(self, ids: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """New arrays (count, ...) of each field, and the rows of them that are not kept and so not filled."""
        slots = self._slot_of[ids]
        absent = np.flatnonzero(slots < 0)
        rows: dict[str, np.ndarray] = {}
        for name, (shape, dtype) in self._shapes.items():
            out = rows[name] = np.empty((len(ids), *shape), dtype)
            if not len(absent):
                np.take(self._columns[name], slots, axis=0, out=out, mode="clip")  # "raise" would copy twice
            elif len(absent) < len(ids):
                out[slots >= 0] = self._columns[name][slots[slots >= 0]]
        return rows, absent

    def put(self, sample_id: int, values: Mapping[str, object]) -> None:
        """Keeps a sample while there is room."""
        with self._lock:
            if self._num_used == self.capacity or self._slot_of[sample_id] >= 0:
                return
            for name, value in values.items():
                self._columns[name][self._num_used] = value
            self._slot_of[sample_id] = self._num_used  # last: a reader without the lock sees whole rows
            self._num_used += 1
