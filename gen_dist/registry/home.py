"""Where the exports and the ledger of a registered model are kept: what its first publisher said, noted in MLflow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gen_dist.job.spec import JobSpec, S3Spec
from gen_dist.registry import connection
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.ledger import FOLDER
from gen_dist.registry.secrets import without_secrets
from gen_dist.store import Store, open_store

STORE_TAG = "gen_dist.store"
S3_TAG = "gen_dist.s3"

FORBIDDEN = 403


@dataclass(frozen=True)
class Home:
    """A folder or an S3 prefix. Below it: `registry/NAME.json`, the ledger, and `registry/NAME/`, the exports."""

    url: str
    s3: S3Spec = field(default_factory=S3Spec)

    def open(self, name: str) -> Store:
        """Its store. Raises: RegistryError where this machine does not see the folder."""
        if "://" not in self.url and not Path(self.url).is_dir():
            raise RegistryError(
                f"{name}: its models and their ledger are in {self.url}, and there is no such folder here; do this"
                " where it is, or keep models in s3:// (registry.store of the job)"
            )
        return open_store(self.url, self.s3, keys=("registry.store", "registry.s3"))

    @property
    def is_folder(self) -> bool:
        """Whether only those who share a disk see it."""
        return "://" not in self.url


def folder_of(name: str) -> str:
    """Where the exports of a model lie in its home."""
    return f"{FOLDER}/{quote(name, safe='')}"


def home_of(job: JobSpec) -> Home:
    """What the job says, without the user and password of an address."""
    url = job.registry.store or str(Path(job.run.folder).absolute())
    return Home(without_secrets(url), S3Spec.model_validate(without_secrets(job.registry.s3.model_dump())))


def settle(client: MlflowClient, name: str, home: Home) -> Any:
    """The registered model, made where it is missing; its home is `home` unless an earlier publisher named another."""
    tags = {STORE_TAG: home.url, S3_TAG: home.s3.model_dump_json()}
    try:
        found = registered_model(client, name)
    except MlflowException as error:
        if error.get_http_status_code() != FORBIDDEN:
            raise
        found = None  # MLflow with users says so too of a model that is not there; whether it is, making it tells
    if found is None:
        if home.is_folder:
            Path(home.url).mkdir(parents=True, exist_ok=True)
        try:
            return client.create_registered_model(name, tags=tags)
        except MlflowException:
            found = registered_model(client, name)  # another publisher was quicker, or it is not ours to see
            if found is None:
                raise
    if STORE_TAG not in found.tags:
        for key, value in tags.items():
            client.set_registered_model_tag(name, key, value)
        found = client.get_registered_model(name)
    return found


def noted(model: Any, tracking_uri: str) -> Home:
    """The home of a registered model; beside a SQLite file where none was noted. Raises: RegistryError."""
    if STORE_TAG in model.tags:
        return Home(model.tags[STORE_TAG], S3Spec.model_validate(json.loads(model.tags.get(S3_TAG, "{}"))))
    scheme, _, path = tracking_uri.partition(":///")
    if scheme == "sqlite" and path:
        return Home(str(Path(path.partition("?")[0]).absolute().parent))
    raise RegistryError(
        f"{model.name}: MLflow does not know where its ledger is, since gen-dist published none of its versions;"
        f" publish one, or set its tag {STORE_TAG} to a folder or s3://bucket/prefix"
    )


def registered_model(client: MlflowClient, name: str) -> Any | None:
    """None where there is none of that name."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if connection.passes(error) or error.get_http_status_code() in (401, FORBIDDEN):
            raise
        return None
