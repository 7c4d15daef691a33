"""The options that the models verbs share, and the registered model that a name leads to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from gen_dist.registry.registered import Registered

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, errors included.")]
TrackingUri = Annotated[str, typer.Option(help="MLflow address; else MLFLOW_TRACKING_URI, else runs/mlflow.db.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="For the audit.")]
Numbered = Annotated[str, typer.Argument(metavar="NAME/VERSION", help="Such as quickstart/3; NAME@ALIAS does too.")]


@contextmanager
def registry(tracking_uri: str) -> Iterator[tuple[MlflowClient, str]]:
    """A client of MLflow and its address; what goes wrong there is one line, without secrets."""
    from gen_dist.registry.find import address

    uri = address(tracking_uri)
    from mlflow.exceptions import MlflowException

    from gen_dist.registry import connection
    from gen_dist.registry.errors import RegistryError

    try:
        yield connection.connect(uri), uri
    except (MlflowException, OSError) as error:
        remedy = "check MLFLOW_TRACKING_URI or --tracking-uri, and that the server answers"
        raise RegistryError(f"{connection.one_line(error, uri)}; {remedy}") from None


def meant(client: MlflowClient, text: str, uri: str) -> tuple[Registered, Any]:
    """The registered model, and the version that NAME/VERSION or NAME@ALIAS means; None behind a bare name."""
    from gen_dist.registry.registered import Registered, called

    name, number, alias = called(text)
    registered = Registered.find(client, name, uri)
    if number:
        return registered, registered.version(number)
    return registered, registered.named(alias) if alias else None


def numbered(client: MlflowClient, text: str, uri: str) -> tuple[Registered, str]:
    """The registered model and the number of one of its versions. Raises: RegistryError for a bare name."""
    from gen_dist.registry.errors import RegistryError

    registered, version = meant(client, text, uri)
    if version is None:
        known = ", ".join(registered.versions()) or "none"
        raise RegistryError(f"{text}: which version? There are {known}; write {registered.name}/NUMBER")
    return registered, str(version.version)
