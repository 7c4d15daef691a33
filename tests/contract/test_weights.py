"""A sample that could not be read has weight 0: it keeps its slot, and what its slot holds changes nothing.

Plain torch, one process. Shapes: B images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gen_dist.recipes.contract import Batch, Clock, Ctx, Phase, Recipe, mean
from gen_dist.recipes.randomness import Draw
from gen_dist.train.collective import Team
from gen_dist.train.studio import Studio
from tests.contract.cases import RECIPES, build, small_case, smoke_job, stream, with_train
from tests.contract.toys import OneGroup, Settings

COUNT = 8
SLOT = 5  # of the second four: DCGAN's neighbours of it are 4, 6 and 7
CLOCKS = [Clock(images=images, step=images // 16) for images in range(0, 320, 16)]
CPU = torch.device("cpu")


@pytest.fixture(params=RECIPES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def read(name: str, recipe: Recipe, *, weight: float, other: bool = False) -> dict[str, Any]:
    """A batch whose slot SLOT weighs `weight`; with `other` the slot holds something else."""
    batch = dict(stream(smoke_job(name), recipe).batch(0, COUNT))
    batch["image"] = batch["image"] / 127.5 - 1
    batch["weight"] = torch.ones(COUNT)
    batch["weight"][SLOT] = weight
    if other:
        noise = torch.rand(batch["image"].shape[1:], generator=torch.Generator().manual_seed(0))
        batch["image"][SLOT] = noise * 2 - 1
        for key, value in batch.items():
            if key == "caption":
                batch[key] = [*value[:SLOT], "quite another thing", *value[SLOT + 1 :]]
            elif key == "label":
                batch[key] = value.clone()
                batch[key][SLOT] = (value[SLOT] + 1) % 10
    return batch


def context(nets: Mapping[str, nn.Module], clock: Clock) -> Ctx:
    return Ctx(nets=nets, frozen={}, clock=clock, draw=Draw(seed=0, first=0, count=COUNT), device=CPU)


def phases(recipe: Recipe) -> dict[str, tuple[Clock, Phase]]:
    """Every phase of a recipe by name, and a clock at which it comes."""
    return {phase.name: (clock, phase) for clock in CLOCKS for phase in recipe.phases(clock)}


def learned(name: str, **slot: Any) -> dict[str, Tensor]:
    """Losses and gradients of every phase on one batch, and the recipe's own state after them."""
    torch.manual_seed(0)
    recipe, groups = build(small_case(name))
    nets, batch = recipe.networks(), read(name, recipe, **slot)
    found: dict[str, Tensor] = {}
    for phase_name, (clock, phase) in phases(recipe).items():
        for group_name, group in groups.items():
            for net in group.nets:
                nets[net].requires_grad_(group_name == phase.group).zero_grad()
        losses = phase.loss(context(nets, clock), batch)
        torch.stack(list(losses.values())).sum().backward()
        found |= {f"{phase_name}/{key}": value.detach() for key, value in losses.items()}
        for net in groups[phase.group].nets:
            for key, value in nets[net].named_parameters():
                if value.grad is not None:
                    found[f"{phase_name}/{net}.{key}"] = value.grad.clone()
    return found | {f"state/{key}": value for key, value in recipe.state_dict().items()}


def test_what_an_unreadable_slot_holds_changes_no_loss_no_gradient_and_no_state(name: str) -> None:
    grey, other = learned(name, weight=0.0), learned(name, weight=0.0, other=True)
    assert grey.keys() == other.keys()
    for key, value in grey.items():
        assert value.isfinite().all(), key
        error = (other[key] - value).abs().max()
        assert error <= 1e-6 * max(float(value.abs().max()), 1.0), f"{key}: {error}"


def test_a_readable_slot_would_have_changed_every_phase(name: str) -> None:
    one, other = learned(name, weight=1.0), learned(name, weight=1.0, other=True)
    unread = learned(name, weight=0.0)
    for phase in phases(build(small_case(name))[0]):
        keys = [key for key in one if key.startswith(f"{phase}/")]
        assert any(not torch.allclose(one[key], unread[key], rtol=1e-3) for key in keys), f"{phase} knows no weight"
        # a generator sees of a slot no more than its label
        assert any(not torch.allclose(one[key], other[key], rtol=1e-3) for key in keys), f"{phase}: nothing to see"


def test_a_batch_of_which_nothing_could_be_read_teaches_nothing(name: str) -> None:
    torch.manual_seed(0)
    recipe, _ = build(small_case(name))
    nets, batch = recipe.networks(), read(name, recipe, weight=0.0)
    batch["weight"] = torch.zeros(COUNT)
    before = {key: value.clone() for key, value in recipe.state_dict().items()}
    for clock, phase in phases(recipe).values():
        losses = phase.loss(context(nets, clock), batch)
        torch.stack(list(losses.values())).sum().backward()
        assert all(value == 0 for value in losses.values()), losses
    assert all(value.grad is None or not value.grad.any() for net in nets.values() for value in net.parameters())
    assert all(torch.equal(value, before[key]) for key, value in recipe.state_dict().items())


def test_held_out_scores_of_the_others_do_not_see_the_slot(name: str) -> None:
    torch.manual_seed(0)
    recipe, _ = build(small_case(name))
    nets = recipe.networks()
    for net in nets.values():
        net.eval()
    one, other = (
        recipe.evaluate(context(nets, Clock(0, 0)), read(name, recipe, weight=0.0, other=other))
        for other in (False, True)
    )
    for key, score_B in one.items():
        assert score_B.shape == (COUNT,)
        torch.testing.assert_close(other[key][:4], score_B[:4])


class OneUnreadable:
    """Held-out samples of which each micro-batch lacks the second, as the stream says it."""

    num_samples = 8

    def batch(self, position: int, count: int) -> dict[str, Any]:
        shade = torch.arange(position, position + count, dtype=torch.float32)
        weight = torch.ones(count)
        weight[1] = 0.0
        return {"image": shade[:, None, None, None].expand(-1, 3, 8, 8), "weight": weight}


class Shade(OneGroup):
    """Scores an image by its first number."""

    def evaluate(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        return {"shade": batch["image"][:, 0, 0, 0]}


def test_the_trainer_logs_the_mean_score_of_what_could_be_read(tmp_path: Path) -> None:
    job, events = with_train(smoke_job("ddpm"), micro_batch_images=4, prompts=("", "")), []
    recipe: Any = Shade(Settings())
    heldout: Any = OneUnreadable()
    nets = recipe.networks()
    weights = {f"{net}.{key}": value for net, made in nets.items() for key, value in made.state_dict().items()}
    studio = Studio(
        job,
        recipe=recipe,
        frozen={},
        team=Team(CPU),
        train=heldout,
        heldout=heldout,
        folder=tmp_path,
        report=lambda kind, **facts: events.append(kind),
    )
    scores = studio.show(weights, Clock(0, 0))
    assert scores == {"heldout/shade": pytest.approx((0 + 2 + 3 + 4 + 6 + 7) / 6)}
    assert events == ["samples"]


def test_the_mean_counts_the_unreadable_as_zeros_and_divides_by_all() -> None:
    value = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(mean(value, torch.ones(8)), value.mean())
    torch.testing.assert_close(mean(value, weight), value[weight > 0].sum() / value.numel())
    torch.testing.assert_close(mean(value[:, 0, 0, 0], weight), value[weight > 0][:, 0, 0, 0].sum() / 8)
    parts = zip(value.split(2), weight.split(2), strict=True)
    torch.testing.assert_close(torch.stack([mean(*part) for part in parts]).mean(), mean(value, weight))
