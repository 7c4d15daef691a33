"""Runs a job: checks its data, launches the workers, records what they say, and publishes what they made."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gen_dist.checkpoint import begin_attempt, note_base
from gen_dist.data.sequential import Unindexed
from gen_dist.data.source import Data
from gen_dist.job import arithmetic
from gen_dist.job.errors import GenDistError
from gen_dist.job.load import resolve
from gen_dist.job.spec import DataSpec, JobSpec, MixSpec
from gen_dist.registry.record import Status
from gen_dist.registry.runs import RESOLVED, checkpoint_store, is_whole_at, newest, newest_images
from gen_dist.registry.secrets import without_secrets
from gen_dist.registry.tracker import EXIT_S, LAST_S, Tracker
from gen_dist.registry.wal import WAL, read_events
from gen_dist.registry.wal_copies import WalCopies
from gen_dist.sample.trained import Trained
from gen_dist.store import Store
from gen_dist.train.fits import check_fits
from gen_dist.train.gauges import Gauges
from gen_dist.train.goodput import Goodput
from gen_dist.train.launch import launch
from gen_dist.train.preflight import before_launch, make_folder
from gen_dist.train.provenance import versions
from gen_dist.train.report import Event
from gen_dist.train.samples import find_samples

if TYPE_CHECKING:
    from gen_dist.registry.publish import Published

PUBLISHED_PROMPTS = 4  # in the input example of the registered model

Watch = Callable[[Event], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    images: int
    finished: bool
    """False where it was asked to stop before its end."""
    run_folder: Path
    checkpoint: str | None
    """Address of the newest one."""
    sample_grid: Path | None
    published: Published | None
    """The registered model; None where the run did not finish, or MLflow did not take it."""
    mlflow_run: str | None
    signalled: int | None
    """The signal that ended it early."""
    goodput: Goodput
    """What became of its time."""
    wal_lag_rows: int
    """Points and other lines of the log that MLflow does not have; `gen-dist track` sends them."""


def train(job: JobSpec, *, watch: Watch, fresh: bool = False) -> Outcome:
    """Run a job to its end, or until Ctrl-C or SIGTERM; `watch` hears every event, in this process.

    With `fresh` it starts over: checkpoints that are there count no more.

    Raises: GenDistError, from the checks or as the workers raised it; TrainingFailedError for any other of theirs.
    """
    job = placed(job)
    folder = Path(arithmetic.run_folder(job))
    make_folder(folder)
    data, heldout = _data(job, watch)
    store = checkpoint_store(job)
    if fresh:
        note_base(store, begin_attempt(store), None)
    elif (found := newest(store)) is not None:
        check_fits(found, job=job, frozen={}, data_digest=data.digest)
    ended = is_whole_at(store, arithmetic.images_at_end(job))  # where it is damaged, workers go on from the one before
    if not ended:
        for text in before_launch(job):
            watch({"kind": "warning", "text": text})
    (folder / RESOLVED).write_text(json.dumps(without_secrets(resolve(job)), indent=2) + "\n")
    copies = WalCopies(folder, store if job.run.checkpoints else None)
    copies.fetch()
    digests = {"data_digest": data.digest, "heldout_digest": heldout.digest if heldout else ""}
    tracker = Tracker(job, run_folder=folder, facts={**digests, "versions": versions()})
    tracker.start()
    goodput, gauges = Goodput.of(read_events(folder / WAL)), Gauges(job.name)

    def hear(event: Event) -> None:
        goodput.hear(event)
        tracker.handle(event)
        gauges.hear(event, goodput=goodput.metrics, wal_lag_rows=tracker.wal_lag_rows)
        if event["kind"] in ("checkpoint", "end"):
            tracker.measured(int(event["images"]), goodput.metrics())
        for number, seconds in goodput.of_ended(event).items():  # one point each: the tracker takes the first
            tracker.measured(number, seconds)
        watch(event)
        if event["kind"] == "checkpoint":
            copies.ask()
        for text in tracker.news():
            watch({"kind": "warning", "text": text})

    status: Status = "FAILED"
    published, signalled, recorded = None, None, True
    try:
        if not ended:
            tracker.begin()
            signalled = launch(job, folder=folder, train=data, heldout=heldout, watch=hear)
        finished = newest_images(store) >= arithmetic.images_at_end(job)
        status = "FINISHED" if finished else "KILLED"
        recorded = tracker.wait(EXIT_S)
        away = tracker.failing or not (recorded or tracker.answering)
        digest = digests["heldout_digest"]
        published = _publish(job, store, tracker, watch, heldout_digest=digest, away=away) if finished else None
    finally:
        gauges.close()
        recorded = tracker.finish(status, EXIT_S if recorded else LAST_S)
        copies.finish(LAST_S)
        _warn_of_the_rest(folder, tracker, copies, watch, recorded=recorded)
    return _outcome(folder, store, finished, published, tracker, signalled, goodput)


def _warn_of_the_rest(folder: Path, tracker: Tracker, copies: WalCopies, watch: Watch, *, recorded: bool) -> None:
    """What is not in MLflow, or not beside the checkpoints, at the end of a run."""
    texts = tracker.news()
    if not recorded:
        why = tracker.trouble or "MLflow takes its time"
        left = f"{tracker.wal_lag_rows:,} rows of the log are not there yet"
        texts.append(f"{why}; {left}, `gen-dist track {folder}` sends them; the run itself is whole in {folder}")
    if copies.trouble:
        texts.append(f"{copies.trouble}; it is whole in {folder}")
    for text in texts:
        watch({"kind": "warning", "text": text})


def placed(job: JobSpec) -> JobSpec:
    """The job with absolute folders: workers start in a folder of Ray's."""
    run = job.run.model_copy(update={"folder": str(Path(job.run.folder).absolute())})
    mix = [source.model_copy(update=_placed_urls(source)) for source in job.data.mix]
    data = job.data.model_copy(update={**_placed_urls(job.data), "mix": mix})
    return job.model_copy(update={"data": data, "run": run})


def _placed_urls(source: DataSpec | MixSpec) -> dict[str, str]:
    return {name: _absolute(getattr(source, name)) for name in ("url", "derived")}


def _absolute(url: str) -> str:
    return url if "://" in url or not url else str(Path(url).absolute())


def _data(job: JobSpec, watch: Watch) -> tuple[Data | Unindexed, Data | Unindexed | None]:
    """The training and held-out samples, told to the person. Raises: DataError, StoreError."""
    data, heldout = find_samples(job)
    if isinstance(data, Unindexed):
        watch({"kind": "data", "num_train": None, "num_heldout": None, "digest": data.digest})
        watch({"kind": "warning", "text": data.loss})
        return data, heldout
    assert not isinstance(heldout, Unindexed)
    watch({"kind": "data", "num_train": len(data), "num_heldout": len(heldout or ()), "digest": data.digest})
    if data.index.num_left_out:
        text = f"{data.index.num_left_out} samples are left out; `gen-dist data verify` names them"
        watch({"kind": "warning", "text": text})
    return data, heldout


def _publish(
    job: JobSpec, store: Store, tracker: Tracker, watch: Watch, *, heldout_digest: str, away: bool
) -> Published | None:
    """Register the newest checkpoint, unless MLflow is `away`. Trouble of the registry is said, and ends no run."""
    found = newest(store)
    assert found is not None
    if away:
        text = f"the model is not registered, for MLflow is away; the same command again registers {found.url}"
        watch({"kind": "warning", "text": text})
        return None
    watch({"kind": "publishing"})
    from gen_dist.registry.publish import publish  # imports MLflow, which a run must not wait for at its start

    prompts = job.train.prompts[:PUBLISHED_PROMPTS] or [""]
    uri = arithmetic.tracking_uri(job)
    try:
        return publish(
            job,
            Trained(found),
            run_id=tracker.run_id,
            tracking_uri=uri,
            sample_prompts=prompts,
            heldout_digest=heldout_digest,
        )
    except GenDistError as error:
        watch({"kind": "warning", "text": str(error)})
        return None


def _outcome(
    folder: Path,
    store: Store,
    finished: bool,
    published: Published | None,
    tracker: Tracker,
    signalled: int | None,
    goodput: Goodput,
) -> Outcome:
    grids = sorted((folder / "samples").glob("images-*.png"))
    found = newest(store)
    return Outcome(
        images=found.manifest.images if found is not None else 0,
        finished=finished,
        run_folder=folder,
        checkpoint=found.url if found is not None else None,
        sample_grid=grids[-1] if grids else None,
        published=published,
        mlflow_run=tracker.run_id,
        signalled=signalled,
        goodput=goodput,
        wal_lag_rows=tracker.wal_lag_rows,
    )
