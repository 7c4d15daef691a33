"""One LoggedModel of MLflow for each checkpoint that was evaluated, with its scores and the data they were measured on.

The model itself stays outside of MLflow: in a checkpoint, and in an export once a version of it is registered.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.models.utils import get_external_mlflow_model_spec
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.registry.lineage import MANIFEST_TAG, MODEL_TAG, SHORT, short_lineage_of

if TYPE_CHECKING:  # torch comes with it, which the process beside a run does without
    from gen_dist.registry.origin import Origin

MODEL_TYPE = "image generator"
HELDOUT = "heldout/"
MEASURED = (HELDOUT, "loss/", "evaluate/")  # metrics that tell of a model, and not of the machine
MOST_DIGEST_LETTERS = 36  # MLflow's limit


@dataclass(frozen=True)
class Score:
    """One metric of a checkpoint."""

    value: float
    measured_on: str
    """Which samples and which seed, with the digest of the data: scores compare only where it is equal."""


def record_kept(
    client: MlflowClient, origin: Origin, *, experiment: str, run_id: str, job: JobSpec, tags: Mapping[str, str]
) -> Any:
    """The LoggedModel of a checkpoint, whose lineage is `tags`; those of the run's other checkpoints on the way."""
    for other in origin.others():
        points = measured_at(client, run_id, other.images)
        its = short_lineage_of(other, heldout_digest=tags["heldout_digest"])
        record_evaluated(client, points, experiment=experiment, run_id=run_id, job=job, tags=its)
    logged = record(client, experiment=experiment, run_id=run_id, name=arithmetic.registered_model(job), tags=tags)
    link(client, logged.model_id, run_id, measured_at(client, run_id, origin.images), job=job, tags=tags)
    return logged


def record_evaluated(
    client: MlflowClient,
    points: Sequence[Metric],
    *,
    experiment: str,
    run_id: str,
    job: JobSpec,
    tags: Mapping[str, str],
) -> str | None:
    """The id of the LoggedModel of the checkpoint of that lineage; None where no held-out score is among `points`.

    `points`: of the run, measured on the very weights of the checkpoint.
    """
    points = [point for point in points if point.key.startswith(MEASURED)]
    if not any(point.key.startswith(HELDOUT) for point in points):
        return None
    logged = record(client, experiment=experiment, run_id=run_id, name=arithmetic.registered_model(job), tags=tags)
    link(client, logged.model_id, run_id, points, job=job, tags=tags)
    return str(logged.model_id)


def record(client: MlflowClient, *, experiment: str, run_id: str, name: str, tags: Mapping[str, str]) -> Any:
    """The LoggedModel of the checkpoint that `tags` (see `lineage`) describe, made where it is missing."""
    filters = f"tags.{MANIFEST_TAG} = '{tags[MANIFEST_TAG]}'"
    for found in client.search_logged_models([experiment], filter_string=filters):
        if found.source_run_id == run_id and str(found.status) == "READY":
            return found
    short = {key: tags[key] for key in SHORT if tags[key]}
    made = client.create_logged_model(
        experiment,
        name=name,
        source_run_id=run_id,
        params=short,
        tags={**short, MLFLOW_MODEL_IS_EXTERNAL: "true"},
        model_type=MODEL_TYPE,
    )
    with tempfile.TemporaryDirectory(prefix="gen-dist-") as folder:
        get_external_mlflow_model_spec(made).save(str(Path(folder) / "MLmodel"))
        client.log_model_artifacts(made.model_id, folder)
    made = client.finalize_logged_model(made.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=int(tags["images"]))])
    return made


def measured_at(client: MlflowClient, run_id: str, images: int) -> list[Metric]:
    """The points of a run that were measured on the very weights it had after `images` images."""
    keys = [key for key in client.get_run(run_id).data.metrics if key.startswith(MEASURED)]
    points = [point for key in sorted(keys) for point in client.get_metric_history(run_id, key)]
    return [point for point in points if point.step == images]


def link(
    client: MlflowClient, model_id: str, run_id: str, points: Iterable[Metric], *, job: JobSpec, tags: Mapping[str, str]
) -> None:
    """Tell MLflow that these points are of this LoggedModel, and of which data. The run's own curves stay as they are.

    A point keeps its time: MLflow takes an equal one of the same run for the same. What is linked already stays so.
    """
    linked = []
    there = {_key(point) for point in client.get_logged_model(model_id).metrics or []}
    for point in points:
        if not math.isfinite(point.value) or _key(point) in there:
            continue
        heldout = point.key.startswith(HELDOUT)
        pattern = job.data.heldout if heldout else job.data.train
        digest = (tags["heldout_digest"] if heldout else "") or tags["data_digest"]
        linked.append(
            Metric(
                point.key,
                point.value,
                point.timestamp,
                point.step,
                model_id=model_id,
                dataset_name=f"{pattern}, seed {job.seed}",
                dataset_digest=digest[:MOST_DIGEST_LETTERS] or "unknown",
            )
        )
    if linked:
        client.log_batch(run_id, metrics=linked)


def _key(point: Metric) -> tuple[str, int, int]:
    return point.key, point.timestamp, point.step


def scores(client: MlflowClient, version: Any) -> dict[str, Score]:
    """Metric -> score of the checkpoint behind a model version; the newest where one was measured again."""
    model_id = version.tags.get(MODEL_TAG, "") or version.model_id
    points = client.get_logged_model(model_id).metrics or [] if model_id else []
    newest: dict[str, Score] = {}
    for point in sorted(points, key=lambda point: (point.step, point.timestamp)):
        on = f"{point.dataset_name} ({point.dataset_digest})" if point.dataset_digest else ""
        newest[point.key] = Score(float(point.value), on)
    return newest
