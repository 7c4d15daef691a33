"""A run's whole state to a checkpoint and back, at any world size: weights, averages, moments, recipe state, clock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gen_dist import checkpoint
from gen_dist.job.load import resolve
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.registry.secrets import without_secrets
from gen_dist.train.averages import Averages
from gen_dist.train.collective import Team
from gen_dist.train.engines import Engines
from gen_dist.train.masters import MOMENTS, num_steps, set_moments, whole_moments, whole_weights
from gen_dist.train.provenance import versions


def model_weights(engines: Engines, averages: Averages) -> dict[str, Tensor]:
    """What samples are drawn from, by `network.parameter`: averages, else live weights; buffers. Collective."""
    weights: dict[str, Tensor] = {}
    for name, member in engines.items():
        for key, value in averages.whole(name):
            weights[key.removeprefix("nets.")] = value.detach().clone()
        for key, value in member.box.named_buffers():
            weights[key.removeprefix("nets.")] = value.detach().clone()
    return weights


def save(
    folder: Path,
    clock: Clock,
    *,
    job: JobSpec,
    recipe: Recipe,
    engines: Engines,
    averages: Averages,
    team: Team,
    data_digest: str,
    stream: Mapping[str, Any],
) -> Path | None:
    """Write a checkpoint (the leading worker; the path is None on the others). Collective."""
    model = model_weights(engines, averages)
    training: dict[str, Tensor] = {}
    for name, member in engines.items():
        for key, value in whole_weights(member):
            training[f"weight/{name}/{key}"] = value.detach().clone()
        for key, moment, value in whole_moments(member):
            training[f"{moment}/{name}/{key}"] = value.detach().clone()
    if not team.leads:
        team.wait()
        return None
    writer = checkpoint.CheckpointWriter(folder, images=clock.images)
    writer.tensors("model", model)
    writer.tensors("training", training)
    writer.tensors("recipe", recipe.state_dict())
    path = writer.commit(
        {
            "images": clock.images,
            "step": clock.step,
            "job": without_secrets(resolve(job)),
            "group_steps": {name: num_steps(member) for name, member in engines.items()},
            "data_digest": data_digest,
            "versions": versions(),
            "stream": dict(stream),
        }
    )
    checkpoint.keep_newest(folder, job.run.keep_checkpoints)
    team.wait()
    return path


def restore(
    path: Path, *, job: JobSpec, recipe: Recipe, engines: Engines, averages: Averages, data_digest: str
) -> Clock:
    """Put a checkpoint into fresh engines. Every worker reads it. Raises: CheckpointError where it does not fit."""
    manifest = checkpoint.read_manifest(path)
    _must_fit(path, manifest, job=job, data_digest=data_digest)
    model, training = checkpoint.read_model(path), checkpoint.read_training(path)
    for name, member in engines.items():
        live = {key: training[f"weight/{name}/{key}"] for key in member.parameters}
        steps = manifest.group_steps[name]
        if steps > 0:
            moments = {(key, moment): training[f"{moment}/{name}/{key}"] for key in live for moment in MOMENTS}
            set_moments(member, moments, steps=steps)
        averages.restore(name, {key: model[key.removeprefix("nets.")] for key in live}, live)
        for key, buffer in member.box.named_buffers():
            buffer.copy_(model[key.removeprefix("nets.")])
    recipe.load_state_dict(checkpoint.read_recipe(path))
    return Clock(images=manifest.images, step=manifest.step)


def _must_fit(path: Path, manifest: checkpoint.Manifest, *, job: JobSpec, data_digest: str) -> None:
    """Whether a run may go on from this checkpoint under this job."""
    now: dict[str, Any] = resolve(job)
    for key in ("recipe", "model", "seed"):
        if manifest.job[key] != now[key]:
            changed = _first_difference(key, manifest.job[key], now[key])
            raise checkpoint.CheckpointError(
                f"{path}: written with {changed}; give the job another name to start afresh, or put the old value back"
            )
    if manifest.data_digest != data_digest:
        raise checkpoint.CheckpointError(
            f"{path}: written on data {manifest.data_digest[:12]}, data.url now holds {data_digest[:12]}; give the job"
            " another name to train on other data"
        )


def _first_difference(key: str, then: Any, now: Any) -> str:
    if isinstance(then, dict) and isinstance(now, dict):
        for inner in sorted(then.keys() | now.keys()):
            if then.get(inner) != now.get(inner):
                return _first_difference(f"{key}.{inner}", then.get(inner), now.get(inner))
    return f"{key}={then!r}, the job now says {now!r}"
