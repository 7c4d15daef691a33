"""What a store did, counted: requests, faults got over, bytes in and out, and what a local cache saved."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class StoreStats:
    """Counts since the store was made in this process. Threads may add at once; a pickle carries the numbers."""

    num_requests: int = 0
    """Requests sent to a server; 0 for a folder."""
    num_retries: int = 0
    """Requests that were repeated after a fault."""
    received_bytes: int = 0
    sent_bytes: int = 0
    num_cache_hits: int = 0
    """Reads that the local cache answered."""
    cached_bytes: int = 0
    """Bytes that the local cache answered with."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Adds to the counts named; a name that is none is a TypeError."""
        with self._lock:
            for name, count in counts.items():
                if name not in NAMES:
                    raise TypeError(f"StoreStats has no {name!r}; use one of {', '.join(NAMES)}")
                setattr(self, name, getattr(self, name) + count)

    def counts(self) -> dict[str, int]:
        """The numbers of one moment, by name."""
        with self._lock:
            return {name: getattr(self, name) for name in NAMES}

    def __getstate__(self) -> dict[str, int]:
        return self.counts()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


NAMES = tuple(entry.name for entry in fields(StoreStats) if not entry.name.startswith("_"))
