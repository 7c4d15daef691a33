"""Can the places of a job be reached, read and written: its checkpoints, its registry, its shards, its run folder."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gen_dist.cluster.checks.finding import Finding, grouped, note, ok, wrong
from gen_dist.data.index.manifest import NAME as INDEX
from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec, S3Spec
from gen_dist.store import Store, StoreError, open_store
from gen_dist.store.local import LocalStore
from gen_dist.store.probe import probe
from gen_dist.store.s3 import S3Store
from gen_dist.train.footprint import nearest

CHECKPOINTS, REGISTRY, SHARDS, FOLDER = "checkpoints", "registry", "shards", "run folder"
REACH_FOLDER = "name a folder that every machine has at the same path (NFS, Lustre, a shared volume)"


def written_places(job: JobSpec) -> dict[str, tuple[str, S3Spec, tuple[str, str]]]:
    """Check -> (address, how to reach it, keys of the job that say so), for what a run writes beside its folder."""
    places = {CHECKPOINTS: (arithmetic.checkpoints_url(job), job.run.s3, ("run.checkpoints", "run.s3"))}
    if job.registry.store:
        places[REGISTRY] = (job.registry.store, job.registry.s3, ("registry.store", "registry.s3"))
    return places


def try_writing(url: str, s3: S3Spec, keys: tuple[str, str], conditions: bool) -> dict[str, Any]:
    """Writes, reads and removes a small object, and with `conditions` finds out whether conditional writes hold.

    A folder that is not there yet is tried by the one above it. Raises: StoreError.
    """
    store = _store(url, s3, keys)
    seen = probe(store)
    facts: dict[str, Any] = {"write_s": seen.write_s, "read_s": seen.read_s}
    return facts | ({"enforces_conditions": store.enforces_conditions()} if conditions else {})


def judge_written(
    check: str, url: str, s3: S3Spec, found: Mapping[str, Mapping[str, Any]], failed: Mapping[str, BaseException]
) -> Finding:
    """What `try_writing` gave, by machine."""
    if failed:
        return grouped(check, {machine: said(error, url, s3) for machine, error in failed.items()})
    slowest_s = max(facts["write_s"] for facts in found.values())
    measured = {"write_s": round(slowest_s, 4), "read_s": round(max(facts["read_s"] for facts in found.values()), 4)}
    done = f"{url}: written, read and removed in {1000 * (measured['write_s'] + measured['read_s']):,.0f} ms"
    holds = [facts["enforces_conditions"] for facts in found.values() if "enforces_conditions" in facts]
    if not all(holds):
        lost = "ignores conditional writes, so two commands at a time for one run would mix up their checkpoints"
        return note(check, f"{done}; the store {lost}: start one at a time", **measured, enforces_conditions=False)
    more = "; conditional writes hold" if holds and url.startswith("s3://") else ""
    machines = f" from each of {len(found)} places" if len(found) > 1 else ""
    return ok(check, f"{done}{machines}{more}", **measured, enforces_conditions=bool(holds))


def reach_shards(sources: Sequence[tuple[str, S3Spec]]) -> None:
    """That this machine sees where the shards are; lists next to nothing. Raises: StoreError."""
    for url, s3 in sources:
        open_store(url, s3).list(INDEX)


def judge_shards(url: str, s3: S3Spec, failed: Mapping[str, BaseException], *, num_machines: int) -> Finding:
    """What `reach_shards` met, by machine."""
    if failed:
        return grouped(SHARDS, {machine: said(error, url, s3) for machine, error in failed.items()})
    return ok(SHARDS, f"{url} is seen" + (f" from each of {num_machines} places" if num_machines > 1 else ""))


class Token:
    """A file in the run folder that every machine must see. Use as a context; nothing of it is left."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._made = folder, [path for path in (folder, *folder.parents) if not path.exists()]
        self.path = folder / f".seen-{uuid.uuid4().hex}"

    def __enter__(self) -> Token:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.path.write_text("by gen-dist doctor\n")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            for folder in self._made:
                folder.rmdir()


def see_token(path: str) -> bool:
    """Whether this machine sees the file; network disks may show it a little later."""
    give_up_s = time.monotonic() + 3.0
    while not Path(path).is_file():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.1)
    return True


def judge_folder(
    check: str, folder: str, key: str, found: Mapping[str, bool], failed: Mapping[str, BaseException]
) -> Finding:
    """What `see_token` gave, by machine. `key`: of the job, that names the folder."""
    errors = {machine: str(error) or type(error).__name__ for machine, error in failed.items()}
    texts = {machine: f"{folder}: {error}; {REACH_FOLDER} as {key}" for machine, error in errors.items()}
    unseen = f"{folder} is not that of the driver: what is written there would stay on that machine"
    texts |= {machine: f"{unseen}; {REACH_FOLDER} as {key}" for machine, seen in found.items() if not seen}
    if texts:
        return grouped(check, texts)
    return ok(check, f"{folder} is written" + (f", and seen by all {len(found)} machines" if len(found) > 1 else ""))


def unwritable(check: str, folder: str, key: str, error: OSError) -> Finding:
    """The driver itself cannot write there."""
    remedy = f"give this user the right to it, or name another one as {key}"
    return wrong(check, f"{folder}: {error.strerror or error}; {remedy}")


def store_ahead_s(url: str, s3: S3Spec) -> float | None:
    """How far the clock of an object store is ahead of this machine's, in seconds; None where there is none to ask."""
    store = open_store(url, s3)
    there_s = store.clock_s() if isinstance(store, S3Store) else None
    return None if there_s is None else there_s - time.time()


def said(error: BaseException, url: str, s3: S3Spec) -> str:
    """An error in one line with what to do."""
    if isinstance(error, StoreError):
        return str(error)
    where = f"{url} at {s3.endpoint_url or 'the AWS endpoint'}" if url.startswith("s3://") else url
    return f"{where}: {str(error) or type(error).__name__}; check that it answers there, and try again"


def _store(url: str, s3: S3Spec, keys: tuple[str, str]) -> Store:
    if "://" in url:
        return open_store(url, s3, keys=keys)
    return LocalStore(nearest(Path(url).absolute()))
