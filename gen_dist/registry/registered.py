"""Registered: one registered model as its ledger and MLflow have it, found by what a person calls it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gen_dist.job.problem import choose
from gen_dist.registry import aliases, connection, home
from gen_dist.registry.acting import act
from gen_dist.registry.aliases import CHAMPION, LATEST, PREVIOUS, State
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.ledger import Ledger

MOST_REPAIRS = 20
DELETED = "RESOURCE_DOES_NOT_EXIST"
MOST_MODELS = 1000
_CALLED = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:/(?P<version>[^/@]+)|@(?P<alias>[^/@]+))?")


class Registered:
    """A registered model. The ledger decides its aliases; MLflow's follow."""

    def __init__(self, client: MlflowClient, model: Any, tracking_uri: str) -> None:
        self.client, self.name, self.tracking_uri = client, str(model.name), tracking_uri
        self.home = home.noted(model, tracking_uri)
        self.store = self.home.open(self.name)
        self.ledger = Ledger(self.store, self.name)
        self._made_ms = int(model.creation_timestamp)

    @classmethod
    def find(cls, client: MlflowClient, name: str, tracking_uri: str) -> Registered:
        """The one of this name. Raises: RegistryError with the names that there are."""
        model = home.registered_model(client, name)
        if model is None:
            known = [found.name for found in client.search_registered_models(max_results=MOST_MODELS)]
            raise RegistryError(f"{name}: no such registered model; {choose(name, known)}")
        return cls(client, model, tracking_uri)

    def state(self) -> State:
        """What the ledger says now."""
        return self._of_this_model(self.ledger.read())

    def decide(self, decision: Callable[[State], State]) -> State:
        """Write a decision into the ledger, then let MLflow's aliases follow. Raises what the decision raises."""
        new = self.ledger.update(lambda state: decision(self._of_this_model(state)))
        self.repair()
        return new

    def repair(self) -> list[str]:
        """Set MLflow's aliases to the ledger's; a line for each that differed. Others' aliases stay."""
        lines: list[str] = []
        for _ in range(MOST_REPAIRS):
            state = self.state()
            lines += self._follow(state.aliases)
            if self.state().aliases == state.aliases:  # else MLflow may have got what is past by now
                return lines
        raise RegistryError(f"{self.name}: its aliases were moved {MOST_REPAIRS} times meanwhile; try again in a while")

    def versions(self) -> dict[str, Any]:
        """Number -> MLflow's model version, oldest first."""
        found = self.client.search_model_versions(f"name='{self.name}'")
        return {str(version.version): version for version in sorted(found, key=lambda version: int(version.version))}

    def version(self, number: str) -> Any:
        """MLflow's model version. Raises: RegistryError with the numbers that there are."""
        known = self.versions()
        if number not in known:
            there = ", ".join(known) or "none"
            hint = f"; did you mean {self.name}@{number}?" if not number.isdigit() else ""
            raise RegistryError(f"{self.name}/{number}: no such version{hint}; there are {there}")
        return known[number]

    def named(self, alias: str) -> Any:
        """The version that an alias names, the ledger first. Raises: RegistryError with the aliases that there are."""
        known = self.versions()
        names = {**self.mlflow_aliases(), **self.state().aliases}
        if known:
            names[LATEST] = list(known)[-1]
        if alias not in names:
            raise RegistryError(f"{self.name}@{alias}: no such alias; {choose(alias, names)}")
        return self.version(names[alias])

    def mlflow_aliases(self) -> dict[str, str]:
        """As MLflow has them, without its own `latest`."""
        model = self.client.get_registered_model(self.name)
        return {alias: str(version) for alias, version in model.aliases.items() if alias != LATEST}

    def _follow(self, wanted: dict[str, str]) -> list[str]:
        there, lines = self.mlflow_aliases(), []
        for alias, version in sorted(wanted.items()):
            if there.get(alias) == version:
                continue
            was = f"named version {there[alias]}" if alias in there else "was not set"
            try:
                self.client.set_registered_model_alias(self.name, alias, version)
            except MlflowException as error:
                if connection.passes(error) or error.get_http_status_code() in (401, 403):
                    raise
                if error.error_code == DELETED:
                    lines.append(f"MLflow no longer has version {version}, which is {alias}: it was deleted there")
                else:
                    words = connection.one_line(error, self.tracking_uri)
                    lines.append(f"MLflow's alias {alias} {was}, and cannot be set to version {version}: {words}")
            else:
                lines.append(f"MLflow's alias {alias} {was}; set to version {version}, as the ledger says")
        if PREVIOUS in there and PREVIOUS not in wanted and CHAMPION in wanted:
            self.client.delete_registered_model_alias(self.name, PREVIOUS)
            lines.append(f"MLflow's alias {PREVIOUS} named version {there[PREVIOUS]}; removed, as the ledger says")
        if CHAMPION in there and CHAMPION not in wanted:
            lines.append(
                f"MLflow's alias {CHAMPION} names version {there[CHAMPION]}, which the ledger never promoted;"
                " promote it here, or remove the alias in MLflow"
            )
        return lines

    def _of_this_model(self, state: State) -> State:
        if state.made_ms == self._made_ms:
            return state
        if not state.audit:
            return replace(state, made_ms=self._made_ms)
        return aliases.renewed(state, self._made_ms, act=act("MLflow made the registered model anew"))


def called(text: str) -> tuple[str, str, str]:
    """Name, version and alias in NAME, NAME/VERSION, NAME@ALIAS or the same behind `models:/`; empty where not said."""
    found = _CALLED.fullmatch(text)
    if found is None:
        bare = re.match(r"[^/@]*", text.removeprefix("models:/"))
        name = (bare.group() if bare else "") or "NAME"
        raise RegistryError(f"{text!r}: no name of a model; write {name}, {name}/1 or {name}@{CHAMPION}")
    return found["name"], found["version"] or "", found["alias"] or ""
