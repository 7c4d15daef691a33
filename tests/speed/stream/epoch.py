"""One measurement: `python -m tests.speed.stream.epoch TASK` reads samples in this process and prints what it took.

Imports neither gen_dist nor a peer by itself: the reader that the task names does.
"""

from __future__ import annotations

import gc
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any, Protocol, cast

import torch

from tests.speed.stream.task import BATCH_SAMPLES, IMAGE_PX, LATENT_SHAPE, TEXT_SHAPE, Measured, Task

Batch = Mapping[str, torch.Tensor]
"""B samples: "image" uint8 (B, 256, 256, 3) or (B, 3, 256, 256); or "latent" (B, 4, 32, 32) and "text" (B, 77, 768),
both fp16."""


class Reader(Protocol):
    """A module of tests.speed.stream.readers."""

    def ready(self, task: Task) -> Callable[[], Iterator[Batch]]:
        """Does what is not to be timed; the call of what it gives, and iterating over that, is."""
        ...


def measure(task: Task) -> Measured:
    """Read what the task says. Raises: ValueError for a batch that is not as agreed."""
    reader = cast(Reader, importlib.import_module(f"tests.speed.stream.readers.{task.reader}"))
    start = reader.ready(task)
    first_s, num_samples, witness, num_batches = 0.0, 0, 0.0, 0
    children_s, wall_s, cpu_s = _children_s(), time.perf_counter(), time.process_time()
    with closing(cast(Any, start())) as batches:
        for batch in batches:
            first_s = first_s or time.perf_counter() - wall_s
            num_samples += _check(task.kind, batch)
            witness += witness_of(batch)
            num_batches += 1
            if num_batches == task.num_batches:
                break
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    del batches
    gc.collect()  # ends the workers of a loader: their time counts once they have ended
    return Measured(wall_s, cpu_s + _children_s() - children_s, first_s, num_samples, witness)


def witness_of(batch: Batch) -> float:
    """Whole numbers and halves of fp16 add up exactly in fp64, in any order."""
    if "image" in batch:
        image = batch["image"]
        middle = IMAGE_PX // 2
        pixels = image[:, middle, middle, :] if image.shape[-1] == 3 else image[:, :, middle, middle]
        return float(pixels.to(torch.int64).sum())
    return float(sum(batch[name].flatten(1)[:, 0].double().sum() for name in ("latent", "text")))


def _check(kind: str, batch: Batch) -> int:
    shapes: dict[str, set[tuple[int, ...]]] = (
        {"image": {(3, IMAGE_PX, IMAGE_PX), (IMAGE_PX, IMAGE_PX, 3)}}
        if kind == "jpeg"
        else {"latent": {LATENT_SHAPE}, "text": {TEXT_SHAPE}}
    )
    dtype = torch.uint8 if kind == "jpeg" else torch.float16
    for name, allowed in shapes.items():
        tensor = batch[name]
        if len(tensor) != BATCH_SAMPLES or tuple(tensor.shape[1:]) not in allowed or tensor.dtype != dtype:
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} of {BATCH_SAMPLES} samples")
    return BATCH_SAMPLES


def _children_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Task(**json.loads(sys.argv[1]))))))
