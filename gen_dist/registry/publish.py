"""publish: a checkpoint becomes a version of a registered MLflow model that draws wherever MLflow can load it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.registry import aliases, connection, evaluated, exports, home
from gen_dist.registry.acting import act
from gen_dist.registry.drawing_code import copy_drawing_code
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.export import export
from gen_dist.registry.lineage import MODEL_TAG, SHORT, lineage
from gen_dist.registry.origin import Origin
from gen_dist.registry.registered import Registered
from gen_dist.registry.signature import example_of, signature_of
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
    heldout_digest: str = "",
) -> Published:
    """Log the model of `source` in the run (None: in a run of its own), register it, and let `candidate` name it.

    Raises: RegistryError where MLflow does not take it, CheckpointError where there is nothing to take, or it is
    damaged.
    """
    origin = Origin(source)
    origin.verify()  # before anything is made in MLflow: what is registered is what was trained
    name = arithmetic.registered_model(job)
    try:
        client = connection.connect(tracking_uri)
        experiment = connection.experiment_id(client, job.tracking.experiment, tracking_uri)
        if run_id is None:
            run_id = client.create_run(
                experiment, run_name=job.name, tags={"mlflow.source.name": "gen-dist"}
            ).info.run_id
            client.set_terminated(run_id)
        registered = Registered(client, home.settle(client, name, home.home_of(job)), tracking_uri)
        registered.state()  # a ledger that does not answer is told before anything is uploaded
        tags = lineage(origin, job=job, heldout_digest=heldout_digest)
        logged = evaluated.record_kept(client, origin, experiment=experiment, run_id=run_id, job=job, tags=tags)
        with tempfile.TemporaryDirectory(prefix="gen-dist-") as folder:
            facts = {key: tags[key] for key in SHORT}
            described = Model(model_uuid=logged.model_id, run_id=run_id, model_id=logged.model_id, metadata=facts)
            save(source, Path(folder) / "served", prompts=sample_prompts, tmp=Path(folder), mlflow_model=described)
            place = _keep(registered, Path(folder) / "served", logged, origin.name)
        version = _register(registered, place, logged, run_id=run_id, tags=tags)
        _point_alias(client, name, version)
        origin.hold(by=f"{name}/{version}")
    except (MlflowException, OSError) as error:
        line = connection.one_line(error, tracking_uri)
        raise RegistryError(f"{line}; the model is whole in {source.place}, publish it when MLflow is well") from None
    return Published(name, version, f"models:/{name}/{version}", f"models:/{name}@{ALIAS}")


def _keep(registered: Registered, served: Path, logged: Any, checkpoint_name: str) -> str:
    """Where the exported model lies now: in the model's home, which versions refer to.

    A server refuses folders of other machines. Where the home is one, the model goes into the server's own storage.
    """
    store, its = registered.store, registered.home
    if its.is_folder and registered.tracking_uri.startswith(("http://", "https://")):
        with _patience():
            registered.client.log_model_artifacts(logged.model_id, str(served))
        if MLFLOW_MODEL_IS_EXTERNAL in logged.tags:
            registered.client.delete_logged_model_tag(logged.model_id, MLFLOW_MODEL_IS_EXTERNAL)
        return str(logged.artifact_location)
    prefix = f"{home.folder_of(registered.name)}/{checkpoint_name}-{uuid.uuid4().hex[:8]}"
    exports.put(served, store, prefix)
    return exports.address(its, prefix)


def _register(registered: Registered, place: str, logged: Any, *, run_id: str, tags: Mapping[str, str]) -> str:
    """The number of the new version, which is the candidate now."""
    earlier = [number for number, version in registered.versions().items() if version.run_id == run_id]
    known = {**tags, MODEL_TAG: logged.model_id, "parent_version": earlier[-1] if earlier else ""}
    tags = {key: value for key, value in known.items() if value}
    # the place itself, as source: a database looks `models:/...` up at MLflow's global address
    made = registered.client.create_model_version(
        registered.name, place, run_id=run_id, tags=tags, model_id=logged.model_id
    )
    registered.decide(lambda state: aliases.published(state, str(made.version), act=act()))
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
        signature=signature_of(source.facts.job),
        input_example=example_of(source.facts.job, prompts),
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
