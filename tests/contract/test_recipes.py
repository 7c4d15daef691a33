"""What every recipe of the catalog keeps to: tiny jobs of jobs/smoke/ stand in for all."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from gen_dist.job.settings import settings_of
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.sample.model import Model
from tests.contract.cases import QUICK, RECIPES, SMOKE, build, groups_of, level_stages, small_case, smoke_job, stream
from tests.contract.conftest import Trainings
from tests.contract.test_engines import reference

CLOCKS = [Clock(images=images, step=images // 16) for images in range(0, 320, 16)]


@pytest.fixture(params=RECIPES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def recipe(name: str) -> Recipe:
    return build(small_case(name))[0]


def test_every_recipe_has_a_smoke_job_and_every_smoke_job_a_recipe() -> None:
    assert {file.stem for file in SMOKE.glob("*.toml")} == set(catalog.RECIPES), "write jobs/smoke/RECIPE.toml"


@pytest.mark.parametrize("name", catalog.RECIPES)
def test_settings_read_from_source_are_those_of_the_module(name: str) -> None:
    imported = importlib.import_module(catalog.RECIPES[name].partition(":")[0]).Settings
    assert settings_of(name).model_json_schema() == imported.model_json_schema()


def test_each_network_is_trained_by_one_group_or_frozen(name: str, recipe: Recipe) -> None:
    trained = [net for group in recipe.groups().values() for net in group.nets]
    assert sorted(trained) == sorted(recipe.networks())
    assert not set(trained) & set(recipe.frozen())
    assert recipe.groups().keys() == groups_of(name).keys(), "Settings.zero_max names other groups"


def test_phases_are_a_function_of_the_clock_and_train_every_group(recipe: Recipe) -> None:
    seen: set[str] = set()
    for clock in CLOCKS:
        phases = recipe.phases(clock)
        again = recipe.phases(clock)
        assert [(phase.name, phase.group, phase.step, phase.fresh) for phase in phases] == [
            (phase.name, phase.group, phase.step, phase.fresh) for phase in again
        ]
        assert len({phase.name for phase in phases}) == len(phases)
        assert any(phase.step for phase in phases)
        seen |= {phase.group for phase in phases}
    assert seen == recipe.groups().keys()


def test_equal_seeds_build_equal_networks_and_others_do_not(recipe: Recipe) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return {
            f"{net}.{key}": value for net, made in recipe.networks().items() for key, value in made.state_dict().items()
        }

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_every_parameter_of_every_network_learns(name: str) -> None:
    result = reference(name)
    still = [key for key, start in result.start.items() if torch.equal(start, result.weights[key])]
    still = [key for key in still if not key.endswith("to_k.bias")]  # a bias of keys cancels in attention's softmax
    assert not still, f"no phase reaches {still}, or what follows cancels them: a norm of groups of one channel does"


def test_samples_are_images_that_follow_their_seed_alone(name: str, recipe: Recipe) -> None:
    model = Model.from_weights(recipe, reference(name).averages, device=torch.device("cpu"), frozen={})
    prompts = (smoke_job(name).train.prompts * 2)[:6]

    torch.manual_seed(0)
    given = torch.rand(6, 3, recipe.enlarges_px, recipe.enlarges_px) * 2 - 1

    def drawn(seed: int, first: int, count: int) -> Tensor:
        ctx, conditions = model.context(seed=seed, first=first, count=count), {}
        if recipe.enlarges_px:
            conditions["image"] = given[first : first + count]
        return recipe.sample(ctx, recipe.conditions(prompts[first : first + count]) | conditions, count)

    shape = recipe.batch["image"].shape
    all_six = drawn(0, 0, 6)
    assert all_six.shape == (6, *shape)
    assert all_six.isfinite().all()
    assert all_six.abs().max() <= 1.0
    assert torch.equal(drawn(0, 0, 6), all_six)
    assert not torch.equal(drawn(1, 0, 6), all_six)
    assert (all_six[0] - all_six[1]).abs().max() > 0.01, "every sample is the same"
    torch.testing.assert_close(drawn(0, 2, 3), all_six[2:5], rtol=0, atol=1e-3)  # an eighth of a grey level


def test_held_out_scores_are_finite_numbers_one_a_sample(name: str, recipe: Recipe) -> None:
    model = Model.from_weights(recipe, reference(name).averages, device=torch.device("cpu"), frozen={})
    batch = stream(smoke_job(name), recipe).batch(0, 4)
    batch["image"] = batch["image"] / 127.5 - 1
    for score in recipe.evaluate(model.context(seed=0, first=0, count=4), batch).values():
        assert score.shape == (4,)
        assert score.isfinite().all()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.long]) for name in RECIPES]
)
def test_the_losses_of_every_phase_become_metrics(trainings: Trainings, name: str, recipe: Recipe) -> None:
    metrics = {key for line in trainings(name, **_stages(name)).results[0]["metrics"] for key in line}
    phases = {phase.name for clock in CLOCKS for phase in recipe.phases(clock)}
    assert {key.split("/")[1] for key in metrics if key.startswith("loss/")} == phases
    assert {f"gradient_norm/{group}" for group in recipe.groups()} <= metrics


def _stages(name: str) -> dict[str, dict[str, int]]:
    """The case that other tests have trained already."""
    return {"zero_stages": level_stages(name, 1)}
