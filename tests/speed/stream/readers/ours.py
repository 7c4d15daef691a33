"""Ours: the public stream over the same tars, no decoded image kept, planned and with memory kept as in a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import boto3  # noqa: F401  not imported on the clock

from gen_dist.collector import collect_as_usual
from gen_dist.data.source import find_data, open_stream
from gen_dist.job.spec import DataSpec, S3Spec
from gen_dist.train.process import keep_memory
from tests.speed.stream.epoch import Batch
from tests.speed.stream.task import BATCH_SAMPLES, IMAGE_PX, LATENT_SHAPE, TEXT_SHAPE, Task


@dataclass(frozen=True)
class Wanted:
    """A field as a recipe asks for it."""

    kind: str
    shape: tuple[int, ...]
    member: str = ""
    dtype: str = ""


FIELDS = {
    "jpeg": {"image": Wanted("image", (3, IMAGE_PX, IMAGE_PX))},
    "latents": {
        "latent": Wanted("array", LATENT_SHAPE, member="latent.npy", dtype="float16"),
        "text": Wanted("array", TEXT_SHAPE, member="text.npy", dtype="float16"),
    },
}


def ready(task: Task) -> Callable[[], Iterator[Batch]]:
    """`gen-dist data index` has run, and the manifest is read on the clock."""
    s3 = S3Spec(endpoint_url=task.endpoint_url, addressing="path")
    return prepared(task, DataSpec(url=task.url, train="*.tar", cache_bytes=0, s3=s3))


def prepared(task: Task, spec: DataSpec) -> Callable[[], Iterator[Batch]]:
    """What reads the shards of `spec`."""
    keep_memory()
    collect_as_usual()

    def read() -> Iterator[Batch]:
        data = find_data(spec)
        plan = data.plan(workers=1, shuffle_bytes=spec.shuffle_bytes, run=BATCH_SAMPLES)
        with open_stream(spec, fields=FIELDS[task.kind], seed=0, data=data, plan=plan) as stream:
            positions = range(task.first_sample, task.num_epochs * task.num_samples, BATCH_SAMPLES)
            for _, batch in stream.prefetch((position, BATCH_SAMPLES) for position in positions):
                yield batch

    return read
