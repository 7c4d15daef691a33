"""litdata: StreamingDataLoader over chunks that hold the JPEG's bytes, fetched by its own obstore client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import obstore.store  # noqa: F401  not imported on the clock
import simplejpeg
import torch
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming import dataset as litdata_dataset
from litdata.streaming import downloader

from tests.speed.stream.epoch import Batch
from tests.speed.stream.task import BATCH_SAMPLES, Task


class Photos(StreamingDataset):
    """Decodes what it stored."""

    def __getitem__(self, index: Any) -> dict[str, torch.Tensor]:
        return {"image": torch.from_numpy(simplejpeg.decode_jpeg(super().__getitem__(index)))}


def ready(task: Task) -> Callable[[], Iterator[Batch]]:
    """Lets its client speak http, and not ask the package index for a newer release while it is timed."""
    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    litdata_dataset._check_version_and_prompt_upgrade = lambda _: None
    return lambda: _read(task)


def _read(task: Task) -> Iterator[Batch]:
    dataset = Photos(
        input_dir=task.url,
        cache_dir=task.local,
        storage_options={"endpoint_url": task.endpoint_url},
        shuffle=False,
        max_cache_size="50GB",
    )
    yield from StreamingDataLoader(dataset, batch_size=BATCH_SAMPLES, num_workers=task.num_workers)
