"""A run's whole state to a checkpoint and back, at any world size: weights, averages, moments, recipe state, clock.

What a checkpoint holds beside the fragments of the engines (`fragments.py`):
  recipe/NAME   state of the recipe that no network holds
  facts         resolved job, steps of each group, checksums of the data and of frozen networks, versions, and of the
                stream: how samples are shuffled and what was used of them; held-out scores of these weights
Random numbers are drawn from counters, so there is no generator to keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from gen_dist.checkpoint import Checkpoint, Piece, read_recipe
from gen_dist.job.load import resolve
from gen_dist.job.spec import JobSpec
from gen_dist.nets.autoencoder import weights_digest
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.registry.secrets import without_secrets
from gen_dist.train import fragments
from gen_dist.train.averages import Averages
from gen_dist.train.collective import Team
from gen_dist.train.engines import Engines
from gen_dist.train.masters import num_steps, whole_fixed
from gen_dist.train.provenance import versions


def model_weights(engines: Engines, averages: Averages) -> dict[str, Tensor]:
    """What samples are drawn from, by `network.parameter`: averages, else live weights; buffers. Collective."""
    weights: dict[str, Tensor] = {}
    for name, member in engines.items():
        for key, value in averages.whole(name):
            weights[key.removeprefix("nets.")] = value.detach().clone()
        for key, value in whole_fixed(member):
            weights[key.removeprefix("nets.")] = value
    return weights


def pieces(engines: Engines, averages: Averages, recipe: Recipe, *, team: Team) -> list[Piece]:
    """What this worker writes to a checkpoint; nothing is copied yet."""
    found = []
    for name, member in engines.items():
        found += fragments.pieces(member, averages.local(name), rank=team.rank, size=team.size)
    if team.leads:
        for key, value in recipe.state_dict().items():
            found.append(Piece(f"recipe/{key}", tuple(value.shape), 0, value.flatten()))
    return found


def facts(
    *,
    job: JobSpec,
    engines: Engines,
    frozen: Mapping[str, str],
    data_digest: str,
    stream: Mapping[str, Any],
    scores: Mapping[str, float],
) -> dict[str, Any]:
    """What else the checkpoint keeps, as JSON can hold it. `frozen`: as `frozen_digests` gives it."""
    return {
        "job": without_secrets(resolve(job)),
        "group_steps": {name: num_steps(member) for name, member in engines.items()},
        "zero_stages": {name: member.stage for name, member in engines.items()},
        "frozen": dict(frozen),
        "data_digest": data_digest,
        "versions": versions(),
        "stream": dict(stream),
        "scores": {name: value for name, value in scores.items() if math.isfinite(value)},  # JSON has no other
    }


def frozen_digests(frozen: Mapping[str, nn.Module]) -> dict[str, str]:
    """sha256 of each network that is used and never trained: a checkpoint names them and does not hold them."""
    return {name: weights_digest(net.state_dict()) for name, net in frozen.items()}


def restore(checkpoint: Checkpoint, *, recipe: Recipe, engines: Engines, averages: Averages) -> Clock:
    """Put a checkpoint into fresh engines; each worker reads its own part. Collective.

    Raises: CheckpointError where it does not fit, StoreError.
    """
    steps = checkpoint.manifest.facts["group_steps"]
    for name, member in engines.items():
        fragments.restore(member, averages.local(name), checkpoint, steps=steps[name])
        averages.resume(name)
    recipe.load_state_dict(read_recipe(checkpoint))
    return Clock(images=checkpoint.manifest.images, step=checkpoint.manifest.step)
