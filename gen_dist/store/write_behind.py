"""A new file, written by a thread beside what makes its bytes, and on its way to the disk from the first piece on.

Left to itself the kernel gathers for seconds, and who syncs the file at its end waits until the disk has taken all of
it. Asked piece by piece, the disk works while the next one is made.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

NUM_AHEAD = 2  # pieces that wait to be written


def write_behind(path: Path, pieces: Iterable[memoryview]) -> int:
    """Makes the file; gives its length. The caller syncs it. Raises: OSError."""
    under_way: deque[Future[int]] = deque()
    num_bytes = 0
    with path.open("xb", buffering=0) as file, ThreadPoolExecutor(1, thread_name_prefix="gen-dist-write") as pool:
        for piece in pieces:
            if len(under_way) == NUM_AHEAD:
                num_bytes += under_way.popleft().result()
            under_way.append(pool.submit(_write, file.fileno(), piece))
        return num_bytes + sum(future.result() for future in under_way)


def _write(handle: int, piece: memoryview) -> int:
    start = os.lseek(handle, 0, os.SEEK_CUR)
    left = piece
    while len(left):
        left = left[os.write(handle, left) :]
    if hasattr(os, "posix_fadvise"):  # starts to write what the cache holds; what is not yet written stays in the cache
        os.posix_fadvise(handle, start, len(piece), os.POSIX_FADV_DONTNEED)
    return len(piece)
