"""Ours from a folder: what the reader costs by itself, with no server on the same processors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path

from gen_dist.cli.app import main
from gen_dist.job.spec import DataSpec
from tests.speed.stream.epoch import Batch
from tests.speed.stream.readers import ours
from tests.speed.stream.readers.bucket import body
from tests.speed.stream.task import Task


def ready(task: Task) -> Callable[[], Iterator[Batch]]:
    """Copies the tars, which stay in the page cache, and indexes them."""
    for name in task.shards:
        with body(task, f"{task.url}/{name}") as file:
            (Path(task.local) / name).write_bytes(file.read())
    with redirect_stdout(sys.stderr):
        main(["data", "index", task.local, "--headers-only", "--workers", "1"])
    return ours.prepared(task, DataSpec(url=task.local, train="*.tar", cache_bytes=0))
