"""A new file, written by a thread beside what makes its bytes, and on its way to the disk from the first piece on.

Where the file lies on a disk of this machine, and a piece at whole blocks of file and memory, the disk fetches it from
where it is: no copy into the kernel's cache, which takes half as much of a core as SHA-256 does, and nothing else is
pushed out of that cache. Other pieces go through the cache; left to itself the kernel gathers them for seconds, and who
syncs the file at its end waits for all of it, so the disk is asked to begin piece by piece.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

NUM_AHEAD = 2  # pieces that wait to be written
BLOCK_BYTES = 4096
CANNOT = (errno.EINVAL, errno.ENOTSUP)  # what a kernel answers where it cannot fetch a piece from where it is


def write_behind(path: Path, pieces: Iterable[memoryview]) -> int:
    """Makes the file; gives its length. The caller syncs it. Raises: OSError."""
    under_way: deque[Future[None]] = deque()
    with (
        path.open("xb", buffering=0) as file,
        _past_the_cache(path) as direct,
        ThreadPoolExecutor(1, thread_name_prefix="gen-dist-write") as pool,
    ):
        end = _End(file.fileno(), direct)
        for piece in pieces:
            if len(under_way) == NUM_AHEAD:
                under_way.popleft().result()
            under_way.append(pool.submit(end.add, piece))
        for future in under_way:
            future.result()
        return end.num_bytes


@contextmanager
def _past_the_cache(path: Path) -> Iterator[int | None]:
    """A second handle of the file, past the kernel's cache; None where there is none, or where it would cost time.

    A network's disk waits for its server after each such piece; only what has a device of its own is written so.
    """
    handle = None
    if hasattr(os, "O_DIRECT") and os.major(path.stat().st_dev):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_DIRECT)
        except OSError as error:
            if error.errno not in CANNOT:
                raise
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


class _End:
    """The end of a file, where pieces are added."""

    def __init__(self, handle: int, direct: int | None) -> None:
        self._handle, self._direct = handle, direct
        self.num_bytes = 0

    def add(self, piece: memoryview) -> None:
        while len(piece):
            done = self._fetched(piece) or self._copied(piece)
            self.num_bytes += done
            piece = piece[done:]

    def _fetched(self, piece: memoryview) -> int:
        """How much of it the disk has fetched; 0 where it cannot."""
        whole = len(piece) - len(piece) % BLOCK_BYTES
        if self._direct is None or not whole or self.num_bytes % BLOCK_BYTES:
            return 0
        try:
            return os.pwrite(self._direct, piece[:whole], self.num_bytes)
        except OSError as error:
            if error.errno not in CANNOT:
                raise
            return 0

    def _copied(self, piece: memoryview) -> int:
        done = os.pwrite(self._handle, piece, self.num_bytes)
        if hasattr(os, "posix_fadvise"):  # starts to write what the cache holds; what is not yet written stays there
            os.posix_fadvise(self._handle, self.num_bytes, done, os.POSIX_FADV_DONTNEED)
        return done
