"""Engines reproduce plain torch on the joined batch: each recipe at each pair of ZeRO stages, accumulating, to 1e-5.

The default suite has every pair of one recipe of two groups; `-m "long or not long" -k every_combination` has all.
Two ranks with two micro-batches each, 20 global batches, clipped, no parameter of ZeRO-3 kept whole, against
`plain.train`. The error is the largest |a - b| / |b| over the parameters. Adam's eps is larger here: `cases.EPS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.contract import plain
from tests.contract.cases import (
    BF16_IMAGES,
    EPS,
    HARDEST,
    HIGHEST_STAGE,
    QUICK,
    RECIPES,
    in_suite,
    level_stages,
    small_case,
    stages_of,
    trained_at,
)
from tests.contract.conftest import Trained, Trainings

FP32 = 1e-5
BF16 = 2e-2  # a number in bf16 has 8 bits, half a unit is 2e-3 of it: so much is lost at each sum of the backward pass


def _is_short(recipe: str, stages: dict[str, int]) -> bool:
    return recipe in QUICK or (stages == level_stages(recipe, HIGHEST_STAGE) and in_suite(recipe, HIGHEST_STAGE))


COMBINATIONS = [
    pytest.param(
        recipe,
        stages,
        id="-".join([recipe, *map(str, stages.values())]),
        marks=[] if _is_short(recipe, stages) else [pytest.mark.long],
    )
    for recipe in RECIPES
    for stages in stages_of(recipe)
]


@cache
def reference(recipe: str, *, gradient_scale: float = 1.0, **changes: Any) -> plain.Result:
    return plain.train(small_case(recipe, **changes), gradient_scale=gradient_scale)


def error(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[float, str]:
    """The largest relative error over the parameters, and the parameter that has it."""
    assert found.keys() == wanted.keys()
    norm = np.linalg.norm
    errors = {
        name: float(norm(np.asarray(found[name]) - np.asarray(value)) / max(norm(np.asarray(value)), 1e-30))
        for name, value in wanted.items()
    }
    worst = max(errors, key=errors.__getitem__)
    return errors[worst], worst


def assert_equal_to(wanted: plain.Result, trained: Trained, tolerance: float) -> None:
    first, *others = trained.results
    for name in ("weights", "averages"):
        worst, where = error(first[name], getattr(wanted, name))
        assert worst <= tolerance, f"{name}: {where} is off by {worst:.1e}"
        for other in others:
            assert error(other[name], first[name])[0] == 0.0, f"{name} differ between ranks"


@pytest.mark.parametrize(("recipe", "stages"), COMBINATIONS)
def test_every_combination_of_zero_stages_trains_as_plain_torch(
    trainings: Trainings, recipe: str, stages: dict[str, int]
) -> None:
    assert_equal_to(reference(recipe), trainings(recipe, zero_stages=stages), FP32)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("recipe", ["dcgan", "one_group"])
def test_no_gradient_is_clipped_where_clipping_is_off(trainings: Trainings, recipe: str, stage: int) -> None:
    trained = trainings(recipe, zero_stages=level_stages(recipe, stage), clip_norm=0.0)
    assert_equal_to(reference(recipe, clip_norm=0.0), trained, FP32)


@pytest.mark.parametrize("stage", range(4))
@pytest.mark.parametrize("recipe", ["dcgan", "one_group"])  # every gradient of theirs is more than rounding
def test_the_recipes_own_optimizer_is_the_one_that_steps(trainings: Trainings, recipe: str, stage: int) -> None:
    trained = trainings(recipe, zero_stages=level_stages(recipe, stage), eps=None)
    assert_equal_to(reference(recipe, eps=None), trained, FP32)


@pytest.mark.parametrize(("recipe", "stage"), trained_at(*RECIPES, but=HARDEST))
def test_bf16_moves_all_weights_together_as_plain_bf16(trainings: Trainings, recipe: str, stage: int) -> None:
    changes = {"precision": "bf16", "total_images": BF16_IMAGES}
    wanted = reference(recipe, **changes)
    found = trainings(recipe, zero_stages=level_stages(recipe, stage), **changes).results[0]["weights"]
    moved, should = (
        np.concatenate([(np.asarray(end[name]) - start.numpy()).ravel() for name, start in wanted.start.items()])
        for end in (found, wanted.weights)
    )
    off = np.linalg.norm(moved - should) / np.linalg.norm(should)
    assert off <= BF16, f"{off:.1e}"


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[] if name in (*QUICK, HARDEST) else [pytest.mark.long]) for name in RECIPES]
)
def test_the_comparison_covers_every_group_and_would_see_a_fault(recipe: str) -> None:
    right = reference(recipe)
    steps = sum(right.num_steps.values())
    assert right.num_clipped > steps / 4
    assert error(right.weights, right.start)[0] > 100 * FP32
    unclipped = reference(recipe, clip_norm=0.0)
    assert error(unclipped.weights, right.weights)[0] > 100 * FP32, "clipping changes nothing"
    halved = reference(recipe, clip_norm=0.0, gradient_scale=0.5)
    assert error(halved.weights, unclipped.weights)[0] > 100 * FP32, "the size of a gradient changes nothing"
    assert EPS > 1e-3
