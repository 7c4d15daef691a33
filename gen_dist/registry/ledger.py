"""The ledger of a registered model: one small object in storage that decides its aliases, and keeps their audit.

MLflow has no compare-and-set for aliases and drops them without a word when a version is deleted. So an alias is moved
here first, by a write that succeeds only if nobody else wrote meanwhile; MLflow's aliases are set to it afterwards.

A store that ignores the conditions of writes takes both of two that meet, and keeps the last. There each writer waits
until the other's must have arrived, and looks whose entry is in the audit: the other decides again.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from gen_dist.registry.aliases import State
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.secrets import without_secrets
from gen_dist.store import Store, StoreError

FORMAT = "gen-dist-registry-1"
FOLDER = "registry"
MOST_TRIES = 50
MOST_READS = 5
LONGEST_PAUSE_S = 0.2
SETTLE_S = 2.0  # longer than a request takes: where writes do not exclude each other, the last one wins after this


class Ledger:
    """The ledger of the registered model `name` in `store`: `registry/NAME.json`."""

    def __init__(self, store: Store, name: str, *, settle_s: float = SETTLE_S) -> None:
        self.store, self.name, self._settle_s = store, name, settle_s
        self._enforced: bool | None = None  # whether the store looks at conditions; None: not asked yet
        self.object_name = f"{FOLDER}/{quote(name, safe='')}.json"

    @property
    def url(self) -> str:
        """Where it is, for a person."""
        return f"{without_secrets(self.store.url)}/{self.object_name}"

    def read(self) -> State:
        """As it is now; empty where nothing was decided yet. Raises: RegistryError."""
        return self._read()[0]

    def update(self, decide: Callable[[State], State]) -> State:
        """Write what `decide` makes of the state, as if no one else wrote at that time.

        Where another process was quicker, `decide` is asked again about the state that one made. Raises what `decide`
        raises; RegistryError where the storage fails.
        """
        for _ in range(MOST_TRIES):
            state, version = self._read()
            new = decide(state)
            if new is state:
                return state
            enforced = self._enforces_conditions()
            try:
                self.store.write(self.object_name, _as_json(new), if_version=version)
            except StoreError as error:
                if self._version() == version:
                    raise self._error(error) from None
                time.sleep(random.uniform(0.0, LONGEST_PAUSE_S))
            else:
                if enforced or self._stands(new):
                    return new
        raise RegistryError(f"{self.url}: {MOST_TRIES} times another process was quicker; try again in a while")

    def _enforces_conditions(self) -> bool:
        if self._enforced is None:
            try:
                self._enforced = self.store.enforces_conditions()
            except StoreError as error:
                raise self._error(error) from None
        return self._enforced

    def _stands(self, new: State) -> bool:
        """Whether what was written is still there, once all that was under way has arrived; others may have gone on."""
        time.sleep(self._settle_s)
        return self._read()[0].audit[: len(new.audit)] == new.audit

    def _read(self) -> tuple[State, str]:
        """The state and its version in the store; both empty where there is none."""
        for last in (*[False] * (MOST_READS - 1), True):
            version = self._version()
            if not version:
                return State(self.name, made_ms=0), ""
            try:
                data = self.store.read(self.object_name, version=version)
            except StoreError as error:
                if last or self._version() == version:
                    raise self._error(error) from None
                continue  # it was written between the two requests
            try:
                return _parsed(data, self.name, where=self.url), version
            except RegistryError:
                if last:
                    raise
            # A gateway in front of a file system may answer with the size of one version and the bytes of the next.
            time.sleep(random.uniform(0.0, LONGEST_PAUSE_S))
        raise AssertionError("the last try returns or raises")

    def _version(self) -> str:
        try:
            found = self.store.list(self.object_name)
        except StoreError as error:
            raise self._error(error) from None
        return found[0].version if found else ""

    def _error(self, error: StoreError) -> RegistryError:
        words = without_secrets(" ".join(str(error).split()))
        return RegistryError(f"{self.name}: its ledger {self.url} does not answer: {words}")


def _as_json(state: State) -> bytes:
    facts = {
        "format": FORMAT,
        "name": state.name,
        "made_ms": state.made_ms,
        "aliases": state.aliases,  # for readers: it follows from the two below
        "champions": list(state.champions),
        "named": dict(state.named),
        "pins": dict(state.pins),
        "audit": [dict(entry) for entry in state.audit],
    }
    return (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode("utf-8")


def _parsed(data: bytes, name: str, *, where: str) -> State:
    try:
        facts = json.loads(data)
        if facts["format"] != FORMAT or facts["name"] != name:
            raise ValueError(f"of {facts['name']!r} in format {facts['format']!r}, expected {name!r} in {FORMAT!r}")
        return State(
            name=name,
            made_ms=int(facts["made_ms"]),
            champions=tuple(map(str, facts["champions"])),
            named=_texts(facts["named"]),
            pins=_texts(facts["pins"]),
            audit=tuple(_entry(entry) for entry in facts["audit"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(
            f"{where}: not a ledger of models ({type(error).__name__}: {error}); put the last good copy back, or move"
            " it away to begin without aliases and audit"
        ) from None


def _texts(table: dict[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in table.items()}


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    if not {"number", "at", "by", "action", "version", "from", "to", "gates", "why", "before"} <= entry.keys():
        raise ValueError(f"an entry of the audit holds only {', '.join(sorted(entry))}")
    return entry
