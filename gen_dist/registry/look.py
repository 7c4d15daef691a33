"""What is registered, as plain facts: models, their versions with lineage and scores, and how two versions differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient

from gen_dist.registry import aliases
from gen_dist.registry.aliases import CANDIDATE, CHAMPION, LATEST
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.evaluated import scores
from gen_dist.registry.lineage import CHECKPOINT_TAG, CHECKPOINTS_TAG, JOB_TAG, MODEL_TAG
from gen_dist.registry.registered import MOST_MODELS, Registered

LINEAGE = (
    "recipe",
    "images",
    "data_digest",
    "heldout_digest",
    CHECKPOINT_TAG,
    CHECKPOINTS_TAG,
    "manifest_sha256",
    "weights_sha256",
    "job_sha256",
    "code",
    "resumed_from",
    "parent_version",
    "promoted_over",
    "promotion",
)
GATE = "gate."


def models(client: MlflowClient, tracking_uri: str) -> list[dict[str, Any]]:
    """Every registered model with its aliases; those whose ledger is not seen from here say so."""
    found = []
    for model in client.search_registered_models(max_results=MOST_MODELS):
        facts: dict[str, Any] = {"name": model.name, "aliases": dict(model.aliases), "num_versions": 0, "trouble": ""}
        try:
            its = Registered(client, model, tracking_uri)
            facts["aliases"] = {**its.mlflow_aliases(), **its.state().aliases}
        except RegistryError as error:
            facts["trouble"] = str(error)
        numbers = [int(version.version) for version in client.search_model_versions(f"name='{model.name}'")]
        facts["num_versions"] = len(numbers)
        facts["aliases"] = {alias: str(version) for alias, version in facts["aliases"].items() if alias != LATEST}
        if numbers:
            facts["aliases"][LATEST] = str(max(numbers))
        found.append(facts)
    return found


def versions(registered: Registered) -> list[dict[str, Any]]:
    """Every version of a model, oldest first, in short."""
    state = registered.state()
    return [
        {
            "version": number,
            "aliases": _aliases_of(number, registered, state),
            "pinned": state.pins.get(number, ""),
            "images": int(version.tags["images"]) if version.tags.get("images", "").isdigit() else None,
            "made": _time(version.creation_timestamp),
            "scores": {name: score.value for name, score in scores(registered.client, version).items()},
        }
        for number, version in registered.versions().items()
    ]


def default(registered: Registered) -> Any:
    """The version that a bare name means: the champion, else the candidate, else the newest."""
    known, named = registered.versions(), registered.state().aliases
    for alias in (CHAMPION, CANDIDATE):
        if named.get(alias) in known:
            return known[named[alias]]
    if not known:
        raise RegistryError(f"{registered.name}: no version yet; write gen-dist models publish RUN")
    return list(known.values())[-1]


def show(registered: Registered, version: Any) -> dict[str, Any]:
    """One version with all that is known of it; MLflow's aliases are set right on the way."""
    repaired = registered.repair()
    state, number = registered.state(), str(version.version)
    return {
        "name": registered.name,
        "version": number,
        "aliases": _aliases_of(number, registered, state),
        "pinned": state.pins.get(number, ""),
        "made": _time(version.creation_timestamp),
        "source": version.source,
        "run_id": version.run_id,
        "model_id": version.tags.get(MODEL_TAG, "") or version.model_id or "",
        "lineage": {key: version.tags[key] for key in LINEAGE if version.tags.get(key)},
        "scores": {
            name: {"value": score.value, "measured_on": score.measured_on}
            for name, score in sorted(scores(registered.client, version).items())
        },
        "gates": json.loads(version.tags.get("gates", "{}")),
        "gate_results": {key.removeprefix(GATE): said for key, said in version.tags.items() if key.startswith(GATE)},
        "ledger": registered.ledger.url,
        "repaired": repaired,
    }


def compare(one: tuple[Registered, Any], other: tuple[Registered, Any]) -> dict[str, Any]:
    """How two versions differ: scores, lineage, and keys of their jobs. Values are [one's, other's]."""
    mine, theirs = (scores(registered.client, version) for registered, version in (one, other))
    measured: dict[str, Any] = {}
    for name in sorted(mine.keys() | theirs.keys()):
        a, b = mine.get(name), theirs.get(name)
        measured[name] = {
            "values": [a.value if a else None, b.value if b else None],
            "difference": b.value - a.value if a and b else None,
            "same_data": a.measured_on == b.measured_on if a and b else None,
        }
    tags = [version.tags for _, version in (one, other)]
    jobs = [dict(leaves(json.loads(its.get(JOB_TAG, "{}")))) for its in tags]
    return {
        "versions": [f"{registered.name}/{version.version}" for registered, version in (one, other)],
        "scores": measured,
        "lineage": {key: pair for key in LINEAGE if (pair := [its.get(key, "") for its in tags])[0] != pair[1]},
        "job": {
            key: [job.get(key) for job in jobs]
            for key in sorted(jobs[0].keys() | jobs[1].keys())
            if jobs[0].get(key) != jobs[1].get(key)
        },
    }


def history(registered: Registered) -> dict[str, Any]:
    """The audit, oldest first, and whether it is as it was written."""
    state = registered.state()
    return {
        "name": registered.name,
        "ledger": registered.ledger.url,
        "fault": aliases.fault_of(state.audit),
        "audit": [dict(entry) for entry in state.audit],
    }


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(`train.total_images`, 1000) for each value of a resolved job."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _aliases_of(number: str, registered: Registered, state: aliases.State) -> list[str]:
    held = {alias for alias, version in {**registered.mlflow_aliases(), **state.aliases}.items() if version == number}
    return sorted(held)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
