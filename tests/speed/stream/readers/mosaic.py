"""mosaicml-streaming: torch's DataLoader over MDS shards that hold the JPEG's bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import simplejpeg
import torch
from streaming import StreamingDataset
from streaming.base.storage import download  # noqa: F401  not imported on the clock
from torch.utils.data import DataLoader

from tests.speed.stream.epoch import Batch
from tests.speed.stream.task import BATCH_SAMPLES, Task


class Photos(StreamingDataset):
    """Decodes what it stored."""

    def __getitem__(self, at: Any) -> dict[str, torch.Tensor]:
        return {"image": torch.from_numpy(simplejpeg.decode_jpeg(super().__getitem__(at)["image"]))}


def ready(task: Task) -> Callable[[], Iterator[Batch]]:
    """Its address of the store is in the environment."""
    return lambda: _read(task)


def _read(task: Task) -> Iterator[Batch]:
    dataset = Photos(remote=task.url, local=task.local, shuffle=False, batch_size=BATCH_SAMPLES)
    yield from DataLoader(dataset, batch_size=BATCH_SAMPLES, num_workers=task.num_workers)
