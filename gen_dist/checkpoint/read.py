"""Reads a checkpoint, or the exported model that shares its files; nothing in it is ever unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.write import FORMAT


@dataclass(frozen=True)
class Manifest:
    """What checkpoint.json says."""

    images: int
    step: int
    job: dict[str, Any]
    """The resolved job, every default written out."""
    group_steps: dict[str, int]
    data_digest: str
    versions: dict[str, str]
    stream: dict[str, Any] = field(default_factory=dict)
    """How samples are shuffled, what was used of them, and which could not be read."""


def read_manifest(folder: Path) -> Manifest:
    """Raises: CheckpointError where the folder holds no checkpoint of this format."""
    path = folder / "checkpoint.json"
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no checkpoint.json; name a checkpoint folder, or a run folder") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}); take an older checkpoint") from None
    if facts.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: not of the format {FORMAT}; load it with the version that wrote it")
    return Manifest(**facts)


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / f"{name}.safetensors"
    if not path.exists():
        raise CheckpointError(f"{path}: missing; take another checkpoint of the run")
    return load_file(path)


def read_model(folder: Path) -> dict[str, Tensor]:
    """What samples are drawn from, by `network.parameter`."""
    return _read(folder, "model")


def read_training(folder: Path) -> dict[str, Tensor]:
    """Live weights and moments, by `weight/group/parameter`, `exp_avg/...` and `exp_avg_sq/...`."""
    return _read(folder, "training")


def read_recipe(folder: Path) -> dict[str, Tensor]:
    """State of the recipe that no network holds."""
    return _read(folder, "recipe")
