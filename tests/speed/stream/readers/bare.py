"""The ceiling: the decoder alone, in two threads, from bytes in memory into batches allocated once."""

from __future__ import annotations

import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import simplejpeg
import torch

from tests.speed.stream.epoch import Batch
from tests.speed.stream.readers.bucket import body
from tests.speed.stream.task import BATCH_SAMPLES, IMAGE_PX, Task

NUM_THREADS = 2
NUM_BATCHES = 2 * NUM_THREADS  # allocated: those being decoded, one done, and the one that the consumer holds


def ready(task: Task) -> Callable[[], Iterator[Batch]]:
    """Reads all JPEGs into memory."""
    jpegs: list[bytes] = []
    for name in task.shards:
        with tarfile.open(fileobj=body(task, f"{task.url}/{name}"), mode="r|") as tar:
            files = (tar.extractfile(member) for member in tar if member.name.endswith(".jpg"))
            jpegs += [file.read() for file in files if file is not None]
    batches = np.empty((NUM_BATCHES, BATCH_SAMPLES, IMAGE_PX, IMAGE_PX, 3), np.uint8)
    batches.fill(0)  # pages are there before the clock starts
    return lambda: _decode_all(jpegs * task.num_epochs, batches)


def _decode_all(jpegs: Sequence[bytes], batches: np.ndarray) -> Iterator[Batch]:
    running: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for number, first in enumerate(range(0, len(jpegs), BATCH_SAMPLES)):
            chosen = jpegs[first : first + BATCH_SAMPLES]
            running.append(threads.submit(_decode, chosen, batches[number % NUM_BATCHES]))
            if len(running) == NUM_BATCHES - 1:
                yield {"image": torch.from_numpy(running.popleft().result())}
        while running:
            yield {"image": torch.from_numpy(running.popleft().result())}


def _decode(jpegs: Sequence[bytes], into: np.ndarray) -> np.ndarray:
    for jpeg, row in zip(jpegs, into, strict=True):
        simplejpeg.decode_jpeg(jpeg, buffer=row)
    return into
