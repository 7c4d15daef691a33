"""One shard, from its entries to the object in the store: the same bytes whoever makes it, and whenever."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gen_dist.data.errors import DataError
from gen_dist.data.pack.listing import Entry, LeftOut, Listing, Raw, Reader, RejectedError
from gen_dist.data.pack.options import PackOptions
from gen_dist.data.pack.plan import ShardState, state_name
from gen_dist.data.pack.sample import make_sample
from gen_dist.store import Store

NUM_PROBES = 32
TAR_BLOCK_BYTES = 512

ROOM = "make room there, or set TMPDIR to a folder with room for one shard for each of --workers"
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

Member = dict[str, bytes]


@dataclass(frozen=True)
class Task:
    """A shard to be made. Pickles."""

    name: str
    entries: Sequence[Entry]
    reader: Reader
    options: PackOptions
    needs_caption: bool
    store: Store
    num_threads: int
    folder: Path
    """Of this machine, with room for the shard."""


def write_shard(task: Task, told: Callable[[], None]) -> ShardState:
    """Makes the shard, stores it, and then stores that it is finished; calls `told` for each sample.

    Raises: DataError, StoreError where the source or the destination is in trouble; a bad sample is only left out.
    """
    import webdataset as wds  # brings torch: only those who write a shard wait for it

    left_out = []
    num_samples = size_bytes = 0
    with TemporaryDirectory(dir=task.folder) as folder:
        path = Path(folder, task.name)
        plain = {"user": "", "group": "", "mode": 0o644, "mtime": 0}
        with _told(task.folder), path.open("wb") as file, wds.TarWriter(file, encoder=False, **plain) as tar:
            for entry, sample in _samples(task):
                told()
                if isinstance(sample, RejectedError):
                    left_out.append(LeftOut(entry.name, sample.reason, sample.detail))
                else:
                    tar.write({"__key__": entry.key, **sample})
                    num_samples += 1
        if num_samples:
            size_bytes = path.stat().st_size
            task.store.write_file(task.name, path)
        else:
            task.store.delete(task.name)  # of an earlier start, when the source was in a better state
    state = ShardState(task.name, size_bytes, num_samples, left_out)
    task.store.write(state_name(task.name), state.to_bytes())
    return state


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Raises: DataError where the disk takes no more of the shard."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise DataError(f"{folder}: no room to write a shard ({error.strerror})", remedy=ROOM) from error


def mean_sample_bytes(listing: Listing, options: PackOptions) -> int:
    """What a sample takes in a shard when its image is encoded anew, by the mean of a few; 0 if none can be made."""
    step = max(1, len(listing.entries) // NUM_PROBES)
    probes = listing.entries[step // 2 :: step]
    made = [
        make_sample(raw, options, needs_caption=False)
        for probe in probes
        for raw in listing.reader.read([probe])  # one by one: in a table they lie far apart
    ]
    sizes_bytes = [
        sum(len(data) + 2 * TAR_BLOCK_BYTES for data in sample.values()) for sample in made if isinstance(sample, dict)
    ]
    return sum(sizes_bytes) // len(sizes_bytes) if sizes_bytes else 0


def _samples(task: Task) -> Iterator[tuple[Entry, Member | RejectedError]]:
    """In order: read by this thread, made by `num_threads` of them, since Pillow works outside Python's lock."""
    raws = zip(task.entries, task.reader.read(task.entries), strict=True)

    def make(raw: Raw | RejectedError) -> Member | RejectedError:
        return make_sample(raw, task.options, needs_caption=task.needs_caption)

    if task.num_threads == 1:
        yield from ((entry, make(raw)) for entry, raw in raws)
        return
    with ThreadPoolExecutor(task.num_threads) as pool:
        ahead: deque[tuple[Entry, Future[Member | RejectedError]]] = deque()
        for entry, raw in raws:
            ahead.append((entry, pool.submit(make, raw)))
            if len(ahead) > 2 * task.num_threads:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()
