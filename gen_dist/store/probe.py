"""probe: a small object written, read back and removed, to know that a store may be used before a run relies on it."""

from __future__ import annotations

import contextlib
import time
import uuid
from dataclasses import dataclass

from gen_dist.store.base import Store, StoreError

LETTERS = b"written by gen-dist to see whether it may write here; it may be removed\n"


@dataclass(frozen=True)
class Probed:
    """How long it took, in seconds."""

    write_s: float
    read_s: float


def probe(store: Store) -> Probed:
    """Raises: StoreError where an object cannot be written, read back as it was, or removed."""
    name = f".probe-{uuid.uuid4().hex}"
    try:
        began_s = time.perf_counter()
        store.write(name, LETTERS)
        written_s = time.perf_counter()
        seen = store.read(name)
        read_s = time.perf_counter()
        if seen != LETTERS:
            url = f"{store.url}/{name}"
            what = f"{len(LETTERS)} bytes were written, and {len(seen)} other ones read back"
            raise StoreError(f"{url}: {what}; use a store that gives back what it was given", url=url)
    except BaseException:
        with contextlib.suppress(StoreError):  # the fault that led here is the one to report
            store.delete(name)
        raise
    store.delete(name)
    return Probed(write_s=written_s - began_s, read_s=read_s - written_s)
