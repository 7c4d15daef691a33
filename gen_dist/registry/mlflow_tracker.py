"""MlflowRecord: a job's log as MLflow runs, one for its curve and one below it for each attempt; the clock is images.

Everything here may be done twice and changes nothing the second time: points carry the time at which they were said,
which MLflow's primary key holds; runs are looked up by what only they are tagged with; files have names of their own.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from gen_dist.job import arithmetic
from gen_dist.job.errors import JobError
from gen_dist.job.load import load_resolved
from gen_dist.registry import connection
from gen_dist.registry.cursor import Cursor
from gen_dist.registry.evaluated import record_evaluated
from gen_dist.registry.grids import log_grid
from gen_dist.registry.lineage import short_lineage
from gen_dist.registry.record import Note, RunGoneError
from gen_dist.registry.secrets import without_secrets
from gen_dist.registry.wal import Event

MOST_PARAM_LETTERS = 6_000  # MLflow's limits
MOST_KEY_LETTERS = 250
MOST_DIGEST_LETTERS = 36
METRICS_AT_ONCE = 1_000
FEWEST_METRICS_AT_ONCE = 125  # while answers come too late
PARAMS_AT_ONCE = 100
EXPERIMENT = "gen-dist"  # of a log that does not hold its job
NOT_FINITE = "not_finite/values"
LOG_TAG, RUN_TAG = "gen_dist.log", "gen_dist.run"
GONE = ""  # in place of the name of an attempt that was deleted in MLflow
_REFUSED_IN_KEYS = re.compile(r"[^\w\-./ :]", re.ASCII)


class MlflowRecord:
    """See `gen_dist.registry.record.Record`. `log` gives what tells this log from every other one.

    `origin`: where the run is, if `run_folder` is a copy of it.
    """

    def __init__(
        self, tracking_uri: str, *, run_folder: Path, origin: str, log: Callable[[], str], cursor: Cursor
    ) -> None:
        self._uri, self._folder, self._log = tracking_uri, run_folder, log
        self._origin = origin or str(run_folder)
        self._runs = cursor.runs
        self._client = connection.connect(tracking_uri)
        self._metrics_at_once = METRICS_AT_ONCE
        self.refused: str | None = None
        """What MLflow did not take and never will, the first of it in one line."""

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run that holds the curve."""
        curves = [name for name in self._runs if name.startswith("history-")]
        return self._runs[max(curves, key=lambda name: int(name.split("-")[1]))] if curves else None

    def open(self) -> None:
        """Look for the run that was written to. Raises: RunGoneError, MlflowException."""
        if self.run_id is not None and self._is_gone(self.run_id):
            raise RunGoneError
        if self.run_id is None:
            self._client.search_experiments(max_results=1)  # whether anybody answers

    def write(self, notes: Sequence[Note]) -> None:
        """Runs first, then the points of each run, then what else there is to say about it."""
        for note in notes:
            if note.event["kind"] == "job":
                self._describe(note)
            elif note.event["kind"] == "start":
                self._begin(note)
        points: dict[str, list[Metric]] = defaultdict(list)
        tags: dict[str, dict[str, str]] = defaultdict(dict)
        for note in notes:
            if note.event["kind"] == "metrics":
                points[note.run] += _points(note.event, tags[note.run])
            elif note.event["kind"] == "checkpoint":
                tags[note.run]["checkpoint"] = str(note.event.get("path", ""))
        for name, metrics in points.items():
            self._send(name, metrics)
        for name, found in tags.items():
            self._tag(name, found)
        for note in notes:
            if note.event["kind"] == "checkpoint":
                self._do(note.run, partial(self._evaluated, note, notes))
            elif note.event["kind"] == "samples":
                self._do(note.run, partial(self._grid, note.event))
            elif note.event["kind"] == "status":
                self._end(note)

    def passes(self, error: BaseException) -> bool:
        """Whether trying again later may help."""
        return connection.passes(error)

    def line(self, error: BaseException) -> str:
        """The error in one line, without secrets."""
        return connection.one_line(error, self._uri)

    def _run(self, name: str, event: Event | None = None) -> str:
        """MLflow's name of a run, made where it is missing; `event`: the one that began it."""
        if name in self._runs:
            return self._runs[name]
        event = event or {}
        job = (event if event.get("kind") == "job" else event.get("job") or {}).get("job", {})
        experiment = connection.experiment_id(
            self._client, job.get("tracking", {}).get("experiment") or EXPERIMENT, self._uri
        )
        # whoever was killed between making a run and noting its name finds it again
        ours = f"tags.`{LOG_TAG}` = '{self._log()}' and tags.`{RUN_TAG}` = '{name}'"
        found = self._client.search_runs([experiment], ours, max_results=1)
        run_id: str = found[0].info.run_id if found else self._created(experiment, name, event, job)
        self._runs[name] = run_id
        return run_id

    def _created(self, experiment: str, name: str, event: Event, job: Mapping[str, Any]) -> str:
        tags = {LOG_TAG: self._log(), RUN_TAG: name, "mlflow.source.name": "gen-dist", "mlflow.source.type": "JOB"}
        with contextlib.suppress(OSError, KeyError):  # a user without a name
            tags["mlflow.user"] = getpass.getuser()
        title = name
        if parent := event.get("parent"):
            tags["mlflow.parentRunId"] = self._run(parent)
        elif name.startswith("history-"):
            title = job.get("name") or self._folder.name
            tags |= {"run_folder": self._origin, "recipe": str(job.get("recipe", ""))}
        at_ms = int(event["at_s"] * 1000) if event else None
        run_id: str = self._client.create_run(experiment, start_time=at_ms, run_name=title, tags=tags).info.run_id
        return run_id

    def _do(self, name: str, action: Callable[[str], object]) -> None:
        """Do it with a run. What MLflow refuses is noted and does not hold up the rest."""
        run_id = self._run(name)
        if run_id == GONE:
            return
        try:
            action(run_id)
        except MlflowException as error:
            if connection.passes(error):
                raise
            if not self._is_gone(run_id):
                self.refused = self.refused or self.line(error)
            elif name.startswith("history-"):
                raise RunGoneError from None
            else:
                self._runs[name] = GONE

    def _is_gone(self, run_id: str) -> bool:
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage != "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return True
            raise

    def _describe(self, note: Note) -> None:
        """The job, the versions and the data. A param never changes in MLflow: the first job's stay."""
        event = note.event
        self._run(note.run, event)
        self._do(note.run, partial(self._log_params, event["job"]))
        data, digest = event["job"].get("data", {}), str(event.get("data_digest", ""))
        documents = {
            "job.resolved.json": event["job"],
            "versions.json": event.get("versions", {}),
            "data.json": {"digest": digest, **data, **event.get("facts", {})},
        }
        for name, content in documents.items():
            text = json.dumps(without_secrets(content), indent=2, default=str) + "\n"
            self._do(note.run, partial(self._client.log_text, text=text, artifact_file=name))
        if digest:
            self._tag(note.run, {"data_digest": digest})
            source = json.dumps(without_secrets(data), default=str)
            url = without_secrets(str(data.get("url", "")))
            dataset = Dataset(name=url, digest=digest[:MOST_DIGEST_LETTERS], source_type="tar", source=source)
            self._do(note.run, partial(self._client.log_inputs, datasets=[DatasetInput(dataset)]))

    def _log_params(self, job: Mapping[str, Any], run_id: str) -> None:
        known = self._client.get_run(run_id).data.params
        new = [Param(key, value) for key, value in flat(without_secrets(job)) if key not in known]
        for params in _parts(new, PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=params, synchronous=True)

    def _begin(self, note: Note) -> None:
        """An attempt: its own run, and on the curve's run what it began with and which keys of the job were changed."""
        event = note.event
        facts = {key: str(event[key]) for key in ("images", "workers", "resumed_from") if event.get(key) is not None}
        run_id = self._run(note.run, event)
        if "parent" in event:
            self._tag(note.run, {"attempt": str(event["attempt"]), **facts})
            return
        run = self._client.get_run(run_id)
        for key, value in flat(without_secrets((event["job"] or {}).get("job", {}))):
            if run.data.params.get(key, value) != value:
                facts[key] = value
        tags = {f"attempt.{event['attempt']}.{key}"[:MOST_KEY_LETTERS]: value for key, value in facts.items()}
        self._tag(note.run, {"attempts": str(event["attempt"]), **tags})
        if run.info.status != "RUNNING":
            self._do(note.run, partial(self._client.update_run, status="RUNNING"))

    def _end(self, note: Note) -> None:
        """How the curve or an attempt ended, and the names of the samples that could not be read."""
        end_ms = int(note.event["at_s"] * 1000)
        self._do(note.run, partial(self._client.set_terminated, status=note.event["status"], end_time=end_ms))
        unreadable = self._folder / arithmetic.BAD_SAMPLES
        if note.run.startswith("history-") and unreadable.is_file():
            self._do(note.run, partial(self._client.log_artifact, local_path=str(unreadable)))

    def _evaluated(self, note: Note, notes: Sequence[Note], run_id: str) -> None:
        """A checkpoint with held-out scores: the curve gets them with its commit, so that they are among the notes."""
        event, said = note.event, note.event.get("job") or {}
        of_it = [one for one in notes if one.run == note.run and one.event["kind"] == "metrics"]
        points = [point for one in of_it for point in _points(one.event, {}) if point.step == event["images"]]
        if not points or not said.get("job") or not event.get("manifest_sha256"):
            return
        try:
            job = load_resolved(said["job"], origin=str(self._folder))
        except JobError:
            return  # of another version
        tags = short_lineage(
            said["job"],
            images=event["images"],
            data_digest=str(said.get("data_digest", "")),
            heldout_digest=str(said.get("facts", {}).get("heldout_digest", "")),
            checkpoint=str(event["path"]).rpartition("/")[2],
            manifest_sha256=event["manifest_sha256"],
        )
        experiment = self._client.get_run(run_id).info.experiment_id
        record_evaluated(self._client, points, experiment=experiment, run_id=run_id, job=job, tags=tags)

    def _grid(self, event: Event, run_id: str) -> None:
        path = Path(str(event.get("path", "")))
        here = self._folder / "samples" / path.name  # the folder may have moved since
        log_grid(self._client, run_id, here if here.is_file() else path, event)

    def _tag(self, name: str, tags: Mapping[str, str]) -> None:
        for some in _parts([RunTag(key, value) for key, value in tags.items()], PARAMS_AT_ONCE):
            self._do(name, partial(self._client.log_batch, tags=some, synchronous=True))

    def _send(self, name: str, metrics: Sequence[Metric]) -> None:
        """In portions; smaller ones for a while where an answer did not come in time."""
        for some in _parts(metrics, self._metrics_at_once):
            try:
                self._do(name, partial(self._client.log_batch, metrics=some, synchronous=True))
            except Exception:
                self._metrics_at_once = max(FEWEST_METRICS_AT_ONCE, self._metrics_at_once // 2)
                raise
        self._metrics_at_once = min(METRICS_AT_ONCE, 2 * self._metrics_at_once)


def _points(event: Event, tags: dict[str, str]) -> list[Metric]:
    """A point for each number. MLflow would turn inf into 1.8e308: what is no number is counted, and becomes a tag."""
    images, at_ms = int(event["images"]), int(event["at_s"] * 1000)
    points, num_broken = [], 0
    for name, value in event["metrics"].items():
        key = _REFUSED_IN_KEYS.sub("_", name)[:MOST_KEY_LETTERS]
        if math.isfinite(value):
            points.append(Metric(key, float(value), at_ms, images))
        else:
            num_broken += 1
            tags[f"not_finite.{key}"[:MOST_KEY_LETTERS]] = f"{value} after {images} images"
    if num_broken:
        points.append(Metric(NOT_FINITE, float(num_broken), at_ms, images))
    return points


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(`train.total_images`, "1000") for each leaf; lists as JSON; cut to what MLflow takes."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        short = text if len(text) <= MOST_PARAM_LETTERS else text[: MOST_PARAM_LETTERS - 1] + "…"
        yield _REFUSED_IN_KEYS.sub("_", f"{prefix}{key}")[:MOST_KEY_LETTERS], short


def _parts(items: Sequence[Any], size: int) -> Iterable[list[Any]]:
    return (list(items[start : start + size]) for start in range(0, len(items), size))
