"""publish: a checkpoint becomes a version of a registered MLflow model that draws wherever MLflow can load it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.registry import connection
from gen_dist.registry.drawing_code import copy_drawing_code
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.export import export
from gen_dist.sample.source import ModelSource

ALIAS = "latest"
SERVED = Path(__file__).with_name("served.py")
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pillow", "pydantic", "safetensors", "diffusers", "transformers")
UPLOAD_TIMEOUT_S = 300  # a server may answer only when its own store has the whole file


@dataclass(frozen=True)
class Published:
    """Where the model is now."""

    name: str
    version: str
    uri: str
    """`models:/name/3`: always this model."""
    alias_uri: str
    """`models:/name@latest`: the newest version."""


def publish(
    job: JobSpec,
    source: ModelSource,
    *,
    run_id: str | None,
    tracking_uri: str,
    sample_prompts: Sequence[str],
) -> Published:
    """Log the model of `source` in the run (None: in a run of its own), register it, and let `latest` name it.

    Raises: RegistryError where MLflow does not take it, CheckpointError where there is nothing to take.
    """
    name = arithmetic.registered_model(job)
    try:
        client = connection.connect(tracking_uri)
        experiment = connection.experiment_id(client, job.tracking.experiment, tracking_uri)
        if run_id is None:
            run_id = client.create_run(
                experiment, run_name=job.name, tags={"mlflow.source.name": "gen-dist"}
            ).info.run_id
            client.set_terminated(run_id)
        with tempfile.TemporaryDirectory(prefix="gen-dist-") as folder:
            version = _upload(client, experiment, source, name, run_id=run_id, prompts=sample_prompts, tmp=Path(folder))
        _point_alias(client, name, version)
    except (MlflowException, OSError) as error:
        line = connection.one_line(error, tracking_uri)
        raise RegistryError(f"{line}; the model is whole in {source.place}, publish it when MLflow is well") from None
    return Published(name, version, f"models:/{name}/{version}", f"models:/{name}@{ALIAS}")


def _upload(
    client: MlflowClient,
    experiment: str,
    source: ModelSource,
    name: str,
    *,
    run_id: str,
    prompts: Sequence[str],
    tmp: Path,
) -> str:
    """The version's number."""
    facts = {
        "recipe": str(source.facts.job["recipe"]),
        "images": str(source.facts.images),
        "data_digest": source.facts.data_digest,
    }
    logged = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, params=facts, tags=facts, model_type="image generator"
    )
    try:
        described = Model(model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id, metadata=facts)
        save(source, tmp / "served", prompts=prompts, tmp=tmp, mlflow_model=described)
        with _patience():
            client.log_model_artifacts(logged.model_id, str(tmp / "served"))
        client.finalize_logged_model(logged.model_id, "READY")
    except BaseException:
        with contextlib.suppress(MlflowException, OSError):
            client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=source.facts.images)])
    with contextlib.suppress(MlflowException):  # it is there already; if it is not, the next call says why
        client.create_registered_model(name)
    # the place itself, as source: a database looks `models:/...` up at MLflow's global address
    place = logged.artifact_location
    made = client.create_model_version(name, place, run_id=run_id, tags=facts, model_id=logged.model_id)
    return str(made.version)


def save(source: ModelSource, dest: Path, *, prompts: Sequence[str], tmp: Path, mlflow_model: Any = None) -> None:
    """Write a pyfunc model folder: weights as safetensors, code as source, the signature, pinned requirements."""
    weights = export(source, tmp / "model")
    code = copy_drawing_code(source.facts.job["recipe"], tmp / "code")
    mlflow.pyfunc.save_model(
        path=str(dest),
        python_model=str(SERVED),
        artifacts={"model": str(weights)},
        code_paths=[str(code)],
        signature=ModelSignature(
            inputs=Schema([ColSpec("string", "prompt")]),
            outputs=Schema([ColSpec("binary", "png")]),
            params=ParamSchema([ParamSpec("seed", "long", 0)]),
        ),
        input_example=pd.DataFrame({"prompt": list(prompts) or [""]}),
        pip_requirements=requirements(),
        mlflow_model=mlflow_model,
    )


def requirements() -> list[str]:
    """What drawing needs, as it is installed here; without build tags such as +cpu, which no index knows."""
    return [f"{package}=={importlib.metadata.version(package).partition('+')[0]}" for package in REQUIREMENTS]


def _point_alias(client: MlflowClient, name: str, version: str) -> None:
    """MLflow 3 has `latest` name the newest version by itself and refuses to set it; older servers want it set."""
    try:
        there = str(client.get_model_version_by_alias(name, ALIAS).version)
    except MlflowException as error:
        if connection.passes(error):
            raise
        there = "0"
    if int(there) < int(version):
        client.set_registered_model_alias(name, ALIAS, version)


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """A longer timeout while weights go up, unless a person has set one that is longer still."""
    key = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[key]
    os.environ[key] = str(max(int(before), UPLOAD_TIMEOUT_S))
    try:
        yield
    finally:
        os.environ[key] = before
