"""Checkpoints without a training: of one worker, with what a test wants in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gen_dist.checkpoint import Checkpoint, Piece, Saver, begin_attempt, candidates, open_checkpoint
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Recipe
from gen_dist.store.local import LocalStore

FACTS = {"group_steps": {}, "frozen": {}, "data_digest": "d" * 64, "versions": {}, "stream": {}}


def write_checkpoint(
    folder: Path,
    *,
    images: int,
    step: int = 2,
    tensors: Mapping[str, Tensor] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """A committed checkpoint in the folder of a run's checkpoints; `facts` beside `FACTS`. By a new attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    store = LocalStore(folder)
    saver = Saver(store, attempt=begin_attempt(store), rank=0, world_size=1)
    pieces = [Piece(key, tuple(value.shape), 0, value.detach().flatten()) for key, value in (tensors or {}).items()]
    saver.save(images, step, pieces, {**FACTS, **(facts or {})})
    assert saver.flush(300)
    found = [name for name in candidates(store) if name.startswith(f"images-{images:012d}")]
    return open_checkpoint(store, found[0])


def model_tensors(recipe: Recipe, *, seed: int = 0) -> dict[str, Tensor]:
    """The random weights of `seed` in one group, moments that nobody draws from, and the recipe's state."""
    torch.manual_seed(seed)
    weights = {
        f"weight/all/nets.{name}.{key}": value
        for name, net in recipe.networks().items()
        for key, value in net.state_dict().items()
    }
    state = {f"recipe/{key}": value for key, value in recipe.state_dict().items()}
    return {**weights, "exp_avg/all/nets.x": torch.zeros(1000), **state}


def write_model(folder: Path, job: Mapping[str, Any], *, images: int, seed: int = 0, **facts: Any) -> Checkpoint:
    """A checkpoint of the job's recipe (`recipe`, `model`) with random weights."""
    recipe = catalog.build(job["recipe"], job["model"])
    tensors = model_tensors(recipe, seed=seed)
    return write_checkpoint(folder, images=images, tensors=tensors, facts={"job": dict(job), **facts})
