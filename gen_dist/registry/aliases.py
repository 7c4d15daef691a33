"""Who is candidate, champion and previous among the versions of a model: decisions without any storage.

Every decision takes the state as it is, and returns the next one with an entry more in its audit, or raises. Each entry
holds the SHA-256 of the one before it, so that one which is changed or left out later is seen.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gen_dist.registry.errors import RegistryError

CANDIDATE = "candidate"  # the newest version that a run published
CHAMPION = "champion"  # the one to use: it passed its gates, or somebody said why it need not
PREVIOUS = "previous"  # the champion before, which `rollback` returns to
LATEST = "latest"  # MLflow's own
_ALIAS = re.compile(r"(?!latest$|v\d+$)[\w-]{1,255}", re.ASCII | re.IGNORECASE)  # what MLflow takes
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Act:
    """Who does something, when and why; with what the gates said."""

    by: str
    at: str
    """UTC, ISO 8601."""
    why: str = ""
    gates: Sequence[Mapping[str, Any]] = ()
    forced: bool = False


@dataclass(frozen=True)
class State:
    """All that is decided about one registered model."""

    name: str
    made_ms: int
    """When MLflow made the registered model: one of the same name made later has other versions."""
    champions: tuple[str, ...] = ()
    """Versions, oldest first; the last is champion."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Other aliases, such as candidate -> version."""
    pins: Mapping[str, str] = field(default_factory=dict)
    """Version -> why it must not be deleted."""
    audit: tuple[Entry, ...] = ()

    @property
    def aliases(self) -> dict[str, str]:
        """Every alias -> version."""
        found = dict(self.named)
        if self.champions:
            found[CHAMPION] = self.champions[-1]
        if len(self.champions) > 1:
            found[PREVIOUS] = self.champions[-2]
        return found

    @property
    def champion(self) -> str:
        """Its version; empty where there is none yet."""
        return self.champions[-1] if self.champions else ""

    def is_deleted(self, version: str) -> bool:
        """Whether a version was deleted, or its deletion has begun."""
        begun = [number for number, entry in enumerate(self.audit) if entry["action"] == "renew"]
        since = self.audit[begun[-1] if begun else 0 :]
        return any(entry["action"] == "delete" and entry["version"] == version for entry in since)


def published(state: State, version: str, *, act: Act) -> State:
    """A new version is the candidate, unless a newer one is by now."""
    newest = max(version, state.named.get(CANDIDATE, version), key=int)
    return _next(state, "publish", version, act, named={**state.named, CANDIDATE: newest})


def promoted(state: State, version: str, *, alias: str, seen: str, act: Act) -> State:
    """A version gets an alias. `seen`: the champion when its gates were run. Raises where another was quicker."""
    _must_be_there(state, version)
    if alias in (PREVIOUS, LATEST):
        follows = "the champion before" if alias == PREVIOUS else "the newest version"
        raise RegistryError(f"--to {alias}: always {follows}; write --to champion, or a name of your own")
    if not _ALIAS.fullmatch(alias):
        raise RegistryError(
            f"--to {alias!r}: no name for an alias, MLflow takes letters, digits, - and _, and keeps v1, v2 ... and"
            " latest for itself; write --to champion, or such as --to my-prod"
        )
    if alias != CHAMPION:
        return _next(state, "promote", version, act, named={**state.named, alias: version})
    if version == state.champion == seen:
        raise RegistryError(f"{state.name}/{version}: champion already; nothing to do")
    _must_be_as_seen(state, seen)
    return _next(state, "promote", version, act, champions=(*state.champions, version))


def refused(state: State, version: str, *, act: Act) -> State:
    """A version did not pass its gates: nothing changes but the audit."""
    return _next(state, "refuse", version, act)


def rolled_back(state: State, *, seen: str, there: Collection[str], act: Act) -> State:
    """The newest earlier champion that is still `there` is champion again."""
    _must_be_as_seen(state, seen)
    line = list(state.champions[:-1])
    while line and (line[-1] not in there or line[-1] == state.champion):
        line.pop()
    if not line:
        now = f"version {state.champion} is its first champion" if state.champion else "it has no champion yet"
        raise RegistryError(
            f"{state.name}: no champion to return to, {now}; write gen-dist models promote NAME/VERSION"
        )
    return _next(state, "rollback", line[-1], act, champions=tuple(line))


def deleted(state: State, version: str, *, act: Act) -> State:
    """A version is given up. Raises where an alias or a pin holds it."""
    holding = sorted(alias for alias, held in state.aliases.items() if held == version)
    if holding:
        move = f"first write gen-dist models promote {state.name}/OTHER --to {holding[0]}"
        if CHAMPION in holding or PREVIOUS in holding:
            move = "promote another first, or roll back"
        raise RegistryError(f"{state.name}/{version}: not deleted, it is {' and '.join(holding)}; {move}")
    if version in state.pins:
        raise RegistryError(
            f"{state.name}/{version}: not deleted, it is pinned ({state.pins[version]}); if nobody needs it, write"
            f" gen-dist models unpin {state.name}/{version}"
        )
    if state.is_deleted(version):
        return state  # an earlier try ended midway
    rest = [champion for champion in state.champions if champion != version]
    line = [champion for number, champion in enumerate(rest) if number == 0 or champion != rest[number - 1]]
    return _next(state, "delete", version, act, champions=tuple(line))


def pinned(state: State, version: str, *, act: Act) -> State:
    """A version must not be deleted."""
    _must_be_there(state, version)
    return _next(state, "pin", version, act, pins={**state.pins, version: act.why or f"by {act.by}"})


def unpinned(state: State, version: str, *, act: Act) -> State:
    """A version may be deleted again."""
    if version not in state.pins:
        raise RegistryError(f"{state.name}/{version}: not pinned; pinned are {', '.join(state.pins) or 'none'}")
    pins = {held: why for held, why in state.pins.items() if held != version}
    return _next(state, "unpin", version, act, pins=pins)


def renewed(state: State, made_ms: int, *, act: Act) -> State:
    """MLflow made the registered model anew, so that its versions are others: only the audit stays."""
    return _next(state, "renew", "", act, made_ms=made_ms, champions=(), named={}, pins={})


def fault_of(audit: Sequence[Entry]) -> str:
    """Where an audit is not as it was written; empty where it is."""
    before = ""
    for position, entry in enumerate(audit, start=1):
        if entry.get("number") != position or entry.get("before") != before:
            return f"entry {position} does not follow the one before: the audit was changed or cut"
        before = _digest(entry)
    return ""


def _next(state: State, action: str, version: str, act: Act, **changes: Any) -> State:
    new = replace(state, **changes)
    old, now = state.aliases, new.aliases
    moved = sorted(alias for alias in old.keys() | now.keys() if old.get(alias) != now.get(alias))
    entry = {
        "number": len(state.audit) + 1,
        "at": act.at,
        "by": act.by,
        "action": action,
        "version": version,
        "why": act.why,
        "forced": act.forced,
        "gates": [dict(gate) for gate in act.gates],
        "from": {alias: old.get(alias, "") for alias in moved},
        "to": {alias: now.get(alias, "") for alias in moved},
        "before": _digest(state.audit[-1]) if state.audit else "",
    }
    return replace(new, audit=(*state.audit, entry))


def _digest(entry: Entry) -> str:
    text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _must_be_there(state: State, version: str) -> None:
    if state.is_deleted(version):
        raise RegistryError(f"{state.name}/{version}: deleted; take another version")


def _must_be_as_seen(state: State, seen: str) -> None:
    if state.champion == seen:
        return
    moves = [entry for entry in state.audit if CHAMPION in entry["to"]]
    who = f" (by {moves[-1]['by']}, {moves[-1]['at']})" if moves else ""
    now = f"version {state.champion} became champion" if state.champion else "the champion was taken back"
    raise RegistryError(f"{state.name}: {now} meanwhile{who}; compare with it, then try again")
