"""webdataset: WebLoader over one GET a shard, batches made in its workers; members it need not read are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
import simplejpeg
import torch
import webdataset as wds
from torch.utils.data import default_collate

from tests.speed.stream.epoch import Batch
from tests.speed.stream.readers.bucket import body
from tests.speed.stream.task import BATCH_SAMPLES, Task

MEMBERS = {"jpeg": {"image": "jpg"}, "latents": {"latent": "latent.npy", "text": "text.npy"}}


def ready(task: Task) -> Callable[[], Iterator[Batch]]:
    """Teaches it s3:// addresses."""
    wds.gopen_schemes["s3"] = partial(_open, task)
    return lambda: _read(task)


def _read(task: Task) -> Iterator[Batch]:
    members = MEMBERS[task.kind]
    dataset = wds.WebDataset(
        [f"{task.url}/{name}" for name in task.shards],
        shardshuffle=False,
        empty_check=False,
        select_files=partial(_is_wanted, tuple(members.values())),
    )
    if task.first_sample and task.drop == "samples":  # each worker reads as many of the shards, and drops its part
        dataset = dataset.slice(task.first_sample // max(1, task.num_workers), None)
    if task.num_epochs > 1:
        dataset = dataset.repeat(task.num_epochs)
    decode = [wds.handle_extension("jpg", _decode)] if task.kind == "jpeg" else []
    dataset = dataset.decode(*decode).map(partial(_to_tensors, members))
    loader = wds.WebLoader(
        dataset.batched(BATCH_SAMPLES, collation_fn=default_collate), batch_size=None, num_workers=task.num_workers
    )
    first_batch = task.first_sample // BATCH_SAMPLES if task.drop == "batches" else 0
    yield from islice(loader, first_batch, None)


def _open(task: Task, url: str, *_: Any, **__: Any) -> BinaryIO:
    return body(task, url)


def _is_wanted(extensions: tuple[str, ...], name: str) -> bool:
    return name.endswith(extensions)


def _decode(data: bytes) -> np.ndarray:
    return simplejpeg.decode_jpeg(data)


def _to_tensors(members: Mapping[str, str], sample: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(sample[member]) for name, member in members.items()}
