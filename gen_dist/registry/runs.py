"""Where the checkpoints of a run lie: in its folder, or where its job says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from gen_dist.checkpoint import Checkpoint, CheckpointError, Keep, candidates, open_checkpoint
from gen_dist.job import arithmetic
from gen_dist.job.load import load_resolved
from gen_dist.job.spec import JobSpec, RunSpec
from gen_dist.registry.errors import RegistryError
from gen_dist.store import Store, open_store

RESOLVED = "job.resolved.json"
CHECKPOINTS = "checkpoints"


def checkpoint_store(job: JobSpec) -> Store:
    """The store of all checkpoints of the job's run. Nothing is read yet."""
    url = arithmetic.checkpoints_url(job)
    if "://" not in url:
        Path(url).mkdir(parents=True, exist_ok=True)
    return open_store(url, job.run.s3, keys=("run.checkpoints", "run.s3"))


def retention(run: RunSpec) -> Keep:
    """Which checkpoints the job keeps."""
    return Keep(
        last=run.keep_checkpoints,
        every_images=run.keep_every_images,
        best=run.keep_best,
        metric=run.best_metric,
        highest_is_best=run.best_is == "highest",
    )


def run_store(folder: Path) -> Store | None:
    """The store of a run by its folder, which may have moved; None where the folder is no run's.

    Raises: RegistryError where the job in it cannot be read.
    """
    resolved = folder / RESOLVED
    if resolved.is_file():
        try:
            raw = json.loads(resolved.read_text(encoding="utf-8"))
            elsewhere = raw["run"].get("checkpoints", "")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(f"{resolved}: unreadable ({error!r}); name a checkpoint of the run itself") from None
        if elsewhere:
            return checkpoint_store(load_resolved(raw, origin=str(resolved)))
    if (folder / CHECKPOINTS).is_dir():
        return open_store(str(folder / CHECKPOINTS))
    return None


def newest_images(store: Store) -> int:
    """Images of the newest committed checkpoint; 0 where there is none."""
    found = newest(store)
    return found.manifest.images if found is not None else 0


def is_whole_at(store: Store, images: int) -> bool:
    """Whether the newest checkpoint is of so many images or more, and has no damage: only then all of it is read."""
    found = newest(store)
    if found is None or found.manifest.images < images:
        return False
    try:
        found.verify()
    except CheckpointError:
        return False
    return True


def newest(store: Store) -> Checkpoint | None:
    """The newest committed checkpoint whose manifest can be read. Its files are not verified."""
    return next(readable(store), None)


def readable(store: Store) -> Iterator[Checkpoint]:
    """All committed checkpoints whose manifest can be read, newest first."""
    for name in candidates(store):
        try:
            yield open_checkpoint(store, name)
        except CheckpointError:
            continue
