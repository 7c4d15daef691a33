"""Whether a run may go on from a checkpoint under the job and the data as they are now. Looked at before Ray starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gen_dist.checkpoint import Checkpoint, CheckpointError
from gen_dist.job.load import resolve
from gen_dist.job.settings import settings_of
from gen_dist.job.spec import JobSpec


def check_fits(checkpoint: Checkpoint, *, job: JobSpec, frozen: Mapping[str, str], data_digest: str) -> None:
    """Whether a run may go on from this checkpoint under this job. Raises: CheckpointError."""
    kept, now = checkpoint.manifest.facts, resolve(job)
    where = checkpoint.url
    then = dict(kept["job"])
    if then["recipe"] == now["recipe"] and then["model"].keys() != now["model"].keys():
        then["model"] = _with_new_settings(now["recipe"], then["model"])
    for key in ("recipe", "model", "seed"):
        if then[key] != now[key]:
            changed = _first_difference(key, then[key], now[key])
            raise CheckpointError(
                f"{where}: written with {changed}; give the job another name to start afresh, or put the old value back"
            )
    for name, digest in frozen.items():
        if kept["frozen"].get(name, digest) != digest:
            raise CheckpointError(
                f"{where}: written with {name} of sha256 {kept['frozen'][name][:12]}, it is now {digest[:12]}; put the"
                " frozen network back, or give the job another name to start afresh"
            )
    if kept["data_digest"] != data_digest:
        raise CheckpointError(
            f"{where}: written on data {kept['data_digest'][:12]}, data.url now holds {data_digest[:12]}; give the job"
            " another name to train on other data"
        )


def _with_new_settings(recipe: str, model: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the checkpoint was written with. A setting that its release did not know yet is at its default there."""
    try:
        return settings_of(recipe).model_validate(dict(model)).model_dump(mode="json")
    except ValidationError:  # one that is gone: told as a difference
        return model


def _first_difference(key: str, then: Any, now: Any) -> str:
    if isinstance(then, dict) and isinstance(now, dict):
        for inner in sorted(then.keys() | now.keys()):
            if then.get(inner) != now.get(inner):
                return _first_difference(f"{key}.{inner}", then.get(inner), now.get(inner))
    return f"{key}={then!r}, the job now says {now!r}"
