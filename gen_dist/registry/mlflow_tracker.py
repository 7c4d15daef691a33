"""MlflowRecord: one MLflow run for each job, the same one when the job is resumed; its clock is images seen."""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from PIL import Image

from gen_dist.job import arithmetic
from gen_dist.job.load import resolve
from gen_dist.job.spec import JobSpec
from gen_dist.registry import connection
from gen_dist.registry.record import Event, Status
from gen_dist.registry.secrets import without_secrets

MOST_PARAM_LETTERS = 6_000  # MLflow's limits
MOST_KEY_LETTERS = 250
MOST_DIGEST_LETTERS = 36
METRICS_AT_ONCE = 1_000
PARAMS_AT_ONCE = 100
SAMPLES = "samples"
_REFUSED_IN_KEYS = re.compile(r"[^\w\-./ :]", re.ASCII)


class MlflowRecord:
    """See `gen_dist.registry.record.Record`. `mlflow.json` in the run folder remembers which run it is."""

    def __init__(self, job: JobSpec, *, run_folder: Path, facts: Mapping[str, Any]) -> None:
        self._job = job
        self._memory = run_folder / "mlflow.json"
        self._facts = dict(facts)
        self._uri = arithmetic.tracking_uri(job)
        self._client: MlflowClient | None = None
        self._run_id: str | None = None
        self._metric_images: dict[str, int] = {}  # how far each curve has come
        self._sample_images: set[int] = set()

    @property
    def run_id(self) -> str | None:
        """MLflow's name of the run."""
        return self._run_id

    def open(self) -> None:
        """Find the run of this folder or make it, and note the job, the versions and the data."""
        client = self._client = connection.connect(self._uri)
        run_id = self._resumed(client) or self._created(client)
        self._log_params(client, run_id)
        for name, content in self._documents().items():
            client.log_text(run_id, json.dumps(content, indent=2, default=str) + "\n", name)
        self._run_id = run_id

    def write(self, events: Sequence[Event]) -> None:
        """Metrics of all events in one call; then the rest. What is recorded already is passed over."""
        assert self._client is not None
        assert self._run_id is not None
        metrics, tags = self._metrics(events)
        for some in _parts(metrics, METRICS_AT_ONCE):
            self._client.log_batch(self._run_id, metrics=some)
            for metric in some:
                self._metric_images[metric.key] = metric.step
        for event in events:
            if event["kind"] == "samples" and event.get("png"):
                self._log_samples(self._client, self._run_id, event)
            elif event["kind"] == "checkpoint":
                tags["checkpoint"] = str(event.get("path", ""))
        for some_tags in _parts([RunTag(key, value) for key, value in tags.items()], PARAMS_AT_ONCE):
            self._client.log_batch(self._run_id, tags=some_tags)

    def close(self, status: Status) -> None:
        """Say how the run ended, and name the samples that it could not read."""
        assert self._client is not None
        self._client.set_terminated(self._run_id, status)
        unreadable = self._memory.with_name(arithmetic.BAD_SAMPLES)
        if unreadable.is_file():
            self._client.log_artifact(self._run_id, str(unreadable))

    def passes(self, error: BaseException) -> bool:
        """Whether trying again later may help."""
        return connection.passes(error)

    def line(self, error: BaseException) -> str:
        """The error in one line, without secrets."""
        return connection.one_line(error, self._uri)

    def _resumed(self, client: MlflowClient) -> str | None:
        """The run of mlflow.json, running again; None where it is another server's, or was deleted."""
        try:
            remembered = json.loads(self._memory.read_text(encoding="utf-8"))
            run_id, uri = remembered["run_id"], remembered["tracking_uri"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if uri != without_secrets(self._uri):
            return None
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if connection.passes(error):
                raise
            return None
        if run.info.lifecycle_stage != "active":
            return None
        client.update_run(run_id, status="RUNNING")
        # after a resume the worker goes through some images again: their points are there already
        for key in run.data.metrics:
            self._metric_images[key] = max(metric.step for metric in client.get_metric_history(run_id, key))
        with contextlib.suppress(FileNotFoundError):
            paths = [artifact.path for artifact in client.list_artifacts(run_id, "images")]
            self._sample_images = {int(part) for path in paths for part in re.findall(r"\+step\+(\d+)\+", path)}
        return run_id

    def _created(self, client: MlflowClient) -> str:
        experiment = connection.experiment_id(client, self._job.tracking.experiment, self._uri)
        tags = {
            "recipe": self._job.recipe,
            "data_digest": str(self._facts.get("data_digest", "")),
            "run_folder": str(self._memory.parent),
            "mlflow.source.name": "gen-dist",
            "mlflow.source.type": "JOB",
        }
        with contextlib.suppress(OSError, KeyError):  # a user without a name
            tags["mlflow.user"] = getpass.getuser()
        run_id: str = client.create_run(experiment, run_name=self._job.name, tags=tags).info.run_id
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        draft = self._memory.with_suffix(".tmp")
        draft.write_text(json.dumps({"run_id": run_id, "tracking_uri": without_secrets(self._uri)}, indent=2) + "\n")
        draft.replace(self._memory)
        digest = str(self._facts.get("data_digest", ""))[:MOST_DIGEST_LETTERS]
        if digest:
            source = json.dumps(without_secrets(self._job.data.model_dump(mode="json")))
            dataset = Dataset(name=without_secrets(self._job.data.url), digest=digest, source_type="tar", source=source)
            client.log_inputs(run_id, [DatasetInput(dataset)])
        return run_id

    def _log_params(self, client: MlflowClient, run_id: str) -> None:
        """New ones as params; a param never changes in MLflow, so what differs after a resume becomes a tag."""
        known = client.get_run(run_id).data.params
        now = dict(flat(without_secrets(resolve(self._job))))
        new = [Param(key, value) for key, value in now.items() if key not in known]
        changed = [RunTag(f"changed.{key}", value) for key, value in now.items() if known.get(key, value) != value]
        for params in _parts(new, PARAMS_AT_ONCE):
            client.log_batch(run_id, params=params)
        for tags in _parts(changed, PARAMS_AT_ONCE):
            client.log_batch(run_id, tags=tags)

    def _documents(self) -> dict[str, Any]:
        facts = dict(self._facts)
        versions = facts.pop("versions", {})
        data = {"digest": facts.pop("data_digest", ""), **self._job.data.model_dump(mode="json"), **facts}
        documents = {"job.resolved.json": resolve(self._job), "versions.json": versions, "data.json": data}
        return {name: without_secrets(content) for name, content in documents.items()}

    def _metrics(self, events: Sequence[Event]) -> tuple[list[Metric], dict[str, str]]:
        """Points that are not there yet, and tags for those that are no numbers: MLflow would turn inf into 1.8e308."""
        points: list[Metric] = []
        tags: dict[str, str] = {}
        reached = dict(self._metric_images)
        for event in events:
            if event["kind"] != "metrics":
                continue
            images, at_ms = int(event["images"]), int(event["at_s"] * 1000)
            for name, value in event["metrics"].items():
                key = _REFUSED_IN_KEYS.sub("_", name)[:MOST_KEY_LETTERS]
                if images <= reached.get(key, -1):
                    continue
                if math.isfinite(value):
                    points.append(Metric(key, float(value), at_ms, images))
                    reached[key] = images
                else:
                    tags[f"not_finite.{key}"] = f"{value} after {images} images"
        return points, tags

    def _log_samples(self, client: MlflowClient, run_id: str, event: Event) -> None:
        images = int(event["images"])
        if images in self._sample_images:
            return
        with Image.open(io.BytesIO(event["png"])) as grid:
            client.log_image(run_id, grid, key=SAMPLES, step=images, timestamp=int(event["at_s"] * 1000))
        self._sample_images.add(images)


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
