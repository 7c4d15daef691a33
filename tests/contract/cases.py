"""The tiny job of each recipe (jobs/smoke/), and one training of a job, as a rank and as a reference take it."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gen_dist.data.source import open_stream
from gen_dist.data.stream import Stream
from gen_dist.job.load import load_job
from gen_dist.job.settings import settings_of, zero_max
from gen_dist.job.spec import JobSpec
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Group, Recipe

SMOKE = Path(__file__).resolve().parents[2] / "jobs" / "smoke"
TOYS = {
    "one_group": "tests.contract.toys:OneGroup",
    "bad_steps": "tests.contract.toys:BadSteps",
    "penalty": "tests.contract.toys:Penalty",
}
"""Recipes that exist to be trained here: their shapes of phases are in no recipe of the catalog."""
RECIPES = [*catalog.RECIPES, "one_group"]
HEIRS = ("gigagan_upsampler",)
"""Recipes that train by the phases of another: what takes whole trainings of them is in the long suite."""
QUICK = ("dcgan", "one_group")
"""Recipes that train in a second or two: every case of theirs is in the default suite."""
HARDEST = "gigagan"
"""The one among the others that is in it too, at the highest ZeRO stage, where most can go wrong. The rest is long."""
HIGHEST_STAGE = 3
CHECKPOINT_IMAGES = 112  # 7 of 20 steps: in the middle of what recipes do every few steps
BF16_IMAGES = 192  # 12 steps, of every group
EPS = 1e-2
"""Adam's eps in most cases.

At 1e-8 Adam divides a gradient by its own size, which hides errors and makes some. A gradient that is wrong by a factor
moves its weight right; and one that is zero but for rounding (of a bias of attention's keys, or of one before a norm)
moves its weight by a full rate, in a direction that rounding chooses. At EPS sizes count.
"""


@dataclass(frozen=True)
class Case:
    """One training. It pickles, so that every rank can be told."""

    job: JobSpec
    eps: float | None = None
    """Replaces the eps of every group's Adam."""
    folder: Path | None = None
    """Where checkpoints go; None: none are written."""
    resume: Path | None = None
    """Checkpoint to go on from."""


def in_suite(recipe: str, stage: int) -> bool:
    """Whether the default suite trains this recipe with all groups at this stage, or as near to it as they may go."""
    return recipe in QUICK or (recipe == HARDEST and stage == HIGHEST_STAGE)


def trained_at(*recipes: str, but: str = "") -> list[Any]:
    """(recipe, stage): these recipes at every ZeRO stage as cases of a test that trains each.

    `but`: one of them that is long at every stage here.
    """
    return [
        pytest.param(recipe, stage, marks=[] if in_suite(recipe, stage) and recipe != but else [pytest.mark.long])
        for recipe in recipes
        for stage in range(HIGHEST_STAGE + 1)
    ]


@cache
def smoke_job(recipe: str) -> JobSpec:
    """The job of jobs/smoke/ with the recipe's name, or that of a toy."""
    if recipe in TOYS:
        job = smoke_job("dcgan")
        return job.model_copy(update={"name": recipe.replace("_", "-"), "recipe": recipe, "model": {}})
    return load_job(SMOKE / f"{recipe}.toml")


def with_train(job: JobSpec, **changes: Any) -> JobSpec:
    """The job with other values under [train]."""
    return job.model_copy(update={"train": job.train.model_copy(update=changes)})


def small_case(recipe: str, *, eps: float | None = EPS, folder: Path | None = None, **train: Any) -> Case:
    """The smoke job of a recipe as the tests of engines train it; `train` are values under [train]."""
    values = {
        "clip_norm": 0.1,  # shorter than most gradients: tests say so
        "zero3_persistence_elements": 0,  # or no parameter of so small a network would be split
        "sample_every_images": 0,
        "checkpoint_every_images": CHECKPOINT_IMAGES,
        **train,
    }
    job = with_train(smoke_job(recipe), **values)
    job = job.model_copy(update={"run": job.run.model_copy(update={"keep_checkpoints": 10})})
    return Case(job, eps=eps, folder=folder)


def groups_of(recipe: str) -> dict[str, int]:
    """Group -> highest ZeRO stage."""
    return zero_max(importlib.import_module("tests.contract.toys").Settings if recipe in TOYS else settings_of(recipe))


def level_stages(recipe: str, stage: int) -> dict[str, int]:
    """Every group at `stage`, or as near to it as it may go."""
    return {group: min(stage, highest) for group, highest in groups_of(recipe).items()}


def stages_of(recipe: str) -> Iterator[dict[str, int]]:
    """Every combination of ZeRO stages over the groups of a recipe."""
    groups = groups_of(recipe)
    for stages in itertools.product(*(range(highest + 1) for highest in groups.values())):
        yield dict(zip(groups, stages, strict=True))


def build(case: Case) -> tuple[Recipe, Mapping[str, Group]]:
    """The recipe of a case, and its groups."""
    name, settings = case.job.recipe, case.job.model
    if name in TOYS:
        module, _, cls = TOYS[name].partition(":")
        toys = importlib.import_module(module)
        recipe = getattr(toys, cls)(toys.Settings(**settings))
    else:
        recipe = catalog.build(name, settings)
    groups = recipe.groups()
    if case.eps is not None:
        groups = {name: replace(group, eps=case.eps) for name, group in groups.items()}
    return recipe, groups


_STREAMS: dict[str, Stream] = {}


def stream(job: JobSpec, recipe: Recipe) -> Stream:
    """The training data, decoded once in a process."""
    key = repr((job.data, dict(recipe.batch), job.seed))
    if key not in _STREAMS:
        _STREAMS[key] = open_stream(job.data, pattern=job.data.train, fields=recipe.batch, seed=job.seed)
    return _STREAMS[key]
