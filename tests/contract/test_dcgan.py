"""What DCGAN promises beyond the contract: classes by name, errors that help, and statistics that no split changes."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from gen_dist.job.report import report
from gen_dist.recipes.contract import Clock, Ctx, PromptError
from gen_dist.recipes.dcgan import DCGAN, Discriminator, LabelError, Settings
from gen_dist.recipes.randomness import Draw
from tests.contract import plain
from tests.contract.cases import Case, smoke_job, with_train

SMALL = {"image_px": 16, "channels": 8, "latent_width": 8}


def made(**settings: object) -> DCGAN:
    return DCGAN(Settings(**SMALL, **settings))


def test_without_classes_no_label_is_read_and_prompts_say_nothing() -> None:
    recipe = made()
    assert set(recipe.batch) == {"image"}
    assert recipe.conditions(["anything"]) == {}
    job = smoke_job("dcgan").model_copy(update={"model": recipe.settings.model_dump()})
    result = plain.train(Case(with_train(job, total_images=64)))
    assert all(not torch.equal(value, result.weights[name]) for name, value in result.start.items())


def test_classes_are_asked_for_by_name_and_a_typo_is_told_its_likely_word() -> None:
    recipe = made(classes=("Flags", "Food & Drink"))
    assert recipe.conditions(["food & drink", "Flags", ""])["label"].tolist() == [1, 0, -1]
    with pytest.raises(PromptError, match=r"prompt 'Flag': no such class; did you mean 'Flags'\? known: Flags, Food"):
        recipe.conditions(["Flag"])


def test_an_empty_prompt_draws_any_class() -> None:
    seen: list[torch.Tensor] = []

    def generator(latent: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        seen.append(label)
        return latent

    recipe = made(classes=("a", "b", "c"))
    draw = Draw(seed=0, first=0, count=30)
    ctx = Ctx(nets={"generator": generator}, frozen={}, clock=Clock(0, 0), draw=draw, device=torch.device("cpu"))
    recipe.sample(ctx, recipe.conditions([""] * 29 + ["b"]), 30)
    assert set(seen[0].tolist()) == {0, 1, 2}
    assert seen[0][-1] == 1


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_without_a_class_is_an_error_that_says_what_to_write(label: int) -> None:
    recipe = made(classes=("a", "b"))
    phase = recipe.phases(Clock(0, 0))[0]
    draw = Draw(seed=0, first=0, count=4)
    ctx = Ctx(nets=recipe.networks(), frozen={}, clock=Clock(640, 10), draw=draw, device=torch.device("cpu"))
    batch = {"image": torch.zeros(4, 3, 16, 16), "label": torch.tensor([0, 1, label, 0]), "weight": torch.ones(4)}
    with pytest.raises(LabelError, match=rf"label {label} .* near image 640, .* names 2, 0 to 1; name every class"):
        phase.loss(ctx, batch)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"image_px": 48}, "write 32 or 64"),
        ({"image_px": 4}, "write 8 or 16"),
        ({"channels": 12}, "write 16"),
        ({"classes": ("a", "A")}, "'A' is named twice"),
        ({"classes": ("a", " ")}, "class 1 of 2 has no name"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_says_what_to_write(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**{**SMALL, **setting})


def test_the_penalty_comes_every_so_many_steps_or_never() -> None:
    steps = [len(made(r1_every_steps=4).phases(Clock(0, step))) for step in range(9)]
    assert steps == [3, 2, 2, 2, 3, 2, 2, 2, 3]
    assert all(len(made(r1_every_steps=0).phases(Clock(0, step))) == 2 for step in range(9))
    assert all(len(made(r1_gamma=0).phases(Clock(0, step))) == 2 for step in range(9))


def test_a_micro_batch_that_cuts_through_neighbours_is_warned_of() -> None:
    def warnings(micro_batch_images: int) -> list[str]:
        job = with_train(smoke_job("dcgan"), micro_batch_images=micro_batch_images)
        return [line for line in report(job, file="job.toml")["warnings"] if "micro_batch" in line]

    assert warnings(4) == warnings(8) == []
    (line,) = warnings(2)
    assert line.startswith("train.micro_batch_images=2: recipe 'dcgan' compares 4 neighbours")
    assert line.endswith("write 4")


def test_the_spread_of_a_batch_is_that_of_its_micro_batches_and_shows_a_collapse() -> None:
    torch.manual_seed(0)
    net = Discriminator([8, 16], num_classes=0)
    image = torch.randn(16, 3, 16, 16)
    joined = net(image)
    torch.testing.assert_close(torch.cat([net(part) for part in image.split(4)]), joined)
    torch.testing.assert_close(torch.cat([net(part) for part in image.split(8)]), joined)
    alone = torch.cat([net(part) for part in image.split(1)])  # each its own neighbours: a collapse
    assert (alone - joined).abs().max() > 1e-4
