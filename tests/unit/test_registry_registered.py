"""MLflow's aliases follow the ledger's; what MLflow would refuse is refused first, and its words are passed on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gen_dist.registry import aliases, connection
from gen_dist.registry.aliases import Act, State
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.registered import Registered

ACT = Act(by="ann@desk", at="2026-01-01T00:00:00.000+00:00")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MLflow with the registered model `small`, whose only version is 1."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('home') / 'mlflow.db'}"
    client = connection.connect(uri)
    client.create_registered_model("small")
    client.create_model_version("small", str(Path(uri).parent))
    return uri


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return connection.connect(uri)


ENTRY = {"number": 1, "from": {}, "to": {}, "gates": []}
ENTRY |= dict.fromkeys(("at", "by", "action", "version", "why", "before"), "")
NAMES = ["", "v1", "V12", "latest", "LATEST", "my prod", "a/b", "a@b", "a:b", "a.b", "x" * 256]


@pytest.mark.parametrize("alias", [*NAMES, "prod", "Prod-2", "v1a", "a-_1", "latest-2"])
def test_an_alias_is_refused_where_mlflow_would_refuse_it(alias: str, client: MlflowClient) -> None:
    state = aliases.published(State("small", made_ms=1), "1", act=ACT)
    try:
        client.set_registered_model_alias("small", alias, "1")
    except MlflowException:
        with pytest.raises(RegistryError, match=f"^--to .*{alias}.*; write --to champion, or") as refused:
            aliases.promoted(state, "1", alias=alias, seen="", act=ACT)
        assert len(refused.value.lines) == 1
        assert alias in NAMES
    else:
        client.delete_registered_model_alias("small", alias)
        assert aliases.promoted(state, "1", alias=alias, seen="", act=ACT).aliases[alias] == "1"


def test_only_a_version_that_is_gone_is_called_deleted(uri: str, client: MlflowClient) -> None:
    registered = Registered.find(client, "small", uri)
    bad = {"v1": "1", "gone": "7", "mine": "1"}  # v1: of a ledger that was written before names were looked at
    registered.ledger.update(lambda state: replace(registered.state(), named=bad, audit=(ENTRY,)))
    gone, mine, refused = registered.repair()
    assert gone == "MLflow no longer has version 7, which is gone: it was deleted there"
    assert mine == "MLflow's alias mine was not set; set to version 1, as the ledger says"
    assert refused.startswith("MLflow's alias v1 was not set, and cannot be set to version 1: MLflow at sqlite:///")
    assert "reserved" in refused
