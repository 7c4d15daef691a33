"""Reaching MLflow: a client of one address, its experiment, and its errors in one line without secrets.

Only explicit clients: MLflow's global tracking address and active run belong to whoever else uses it in this process.
"""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gen_dist.registry.secrets import without_secrets

MOST_LINE_LETTERS = 300
KIND = {"mlflow.experimentKind": "custom_model_development"}  # or its pages ask whether this is about chat models
_REFUSED_FOR_NOW = (401, 403, 429)  # no right yet, or too many requests: a person can mend these


def connect(tracking_uri: str) -> MlflowClient:
    """A client for runs and models of `tracking_uri`. Opens nothing yet, except that a SQLite file gets its tables."""
    if (database := _sqlite_file(tracking_uri)) is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri, registry_uri=tracking_uri)


def experiment_id(client: MlflowClient, name: str, tracking_uri: str) -> str:
    """The experiment `name`, made where it is missing. Without a server, its artifacts lie beside the SQLite file."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    database = _sqlite_file(tracking_uri)
    location = None if database is None else (database.parent / "mlartifacts").resolve().as_uri()
    try:
        return client.create_experiment(name, artifact_location=location, tags=KIND)
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another run was quicker
        if found is None:
            raise
        return found.experiment_id


def one_line(error: BaseException, tracking_uri: str) -> str:
    """What went wrong and where, without secrets."""
    words = " ".join(str(error).split()) or type(error).__name__
    words = words if len(words) <= MOST_LINE_LETTERS else words[: MOST_LINE_LETTERS - 1] + "…"
    return f"MLflow at {without_secrets(tracking_uri)}: {without_secrets(words)}"


def passes(error: BaseException) -> bool:
    """Whether the same call may succeed later: a server that is away or busy, a right not given yet; not a refusal."""
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status >= 500 or status in _REFUSED_FOR_NOW
    return isinstance(error, OSError)  # the errors of requests are among these


def _sqlite_file(tracking_uri: str) -> Path | None:
    scheme, _, path = tracking_uri.partition(":///")
    return Path(path.partition("?")[0]) if scheme == "sqlite" and path else None
