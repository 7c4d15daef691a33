"""Styles of GigaGAN's samples: the running mean, truncation towards two means, and a second caption for fine levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gen_dist.nets.gigagan.pyramid import sides
from gen_dist.recipes.contract import Clock, PromptError
from gen_dist.recipes.gigagan_styles import RATE, MeanStyle, truncated
from gen_dist.sample.model import Model
from tests.contract.cases import build, small_case
from tests.contract.test_engines import reference
from tests.contract.test_gigagan import CAPTIONS, batch_of, context, made


def same(value: Tensor) -> Tensor:
    """The mean over one worker."""
    return value


def test_the_mean_style_counts_all_first_steps_alike_and_later_ones_by_a_rate() -> None:
    torch.manual_seed(0)
    steps = torch.randn(300, 2, 4, 6)  # steps of two micro-batches of four styles
    weight = torch.ones(2, 4)
    weight[1, 3] = 0.0  # cannot be read
    one = MeanStyle(6)
    for step, parts in enumerate(steps):
        for part, own in zip(parts, weight, strict=True):
            one.watch(part, own, step=step, mean=same)
        if step == 99:
            found, wanted = one.value(steps), (weight[None, ..., None] * steps[:100]).sum(dim=(1, 2)) / 7
            assert found is not None
            torch.testing.assert_close(found, wanted.mean(dim=0))
    of_step = (weight[None, ..., None] * steps).sum(dim=(1, 2)) / 7
    wanted = of_step[:200].mean(dim=0)
    for value in of_step[200:]:
        wanted = torch.lerp(wanted, value, RATE)
    torch.testing.assert_close(one.state_dict()["mean_style"], wanted)


def test_a_resumed_mean_goes_on_to_the_bit_and_nothing_readable_moves_nothing() -> None:
    torch.manual_seed(0)
    styles = torch.randn(6, 4, 3)
    one, other = MeanStyle(3), MeanStyle(3)
    assert one.value(styles) is None
    for step, style in enumerate(styles):
        one.watch(style, torch.ones(4), step=step, mean=same)
        if step == 2:
            other.load_state_dict(one.state_dict())
        if step > 2:
            other.watch(style, torch.ones(4), step=step, mean=same)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    before = one.state_dict()
    for step, mean in ((6, torch.zeros_like), (7, same)):  # unreadable; a step that is dropped for its NaN
        one.watch(styles[0] * torch.nan, torch.ones(4), step=step, mean=mean)
        assert all(torch.equal(value, before[name]) for name, value in one.state_dict().items())


def test_the_generators_phase_alone_feeds_the_mean_and_a_model_of_before_has_none() -> None:
    recipe = made()
    torch.manual_seed(0)
    ctx = context(recipe, recipe.networks(), count=4)
    phases = {phase.name: phase for phase in recipe.phases(Clock(0, 0))}
    for name, fed in (("discriminator", False), ("penalty", False), ("generator", True)):
        phases[name].loss(ctx, batch_of(CAPTIONS))
        assert bool(recipe.state_dict()["mean_style_steps"]) is fed
    recipe.evaluate(context(recipe, ctx.nets, count=4), batch_of(CAPTIONS))
    assert recipe.state_dict()["mean_style_steps"] == 1.0
    old = made()
    old.load_state_dict({})
    assert old.state_dict()["mean_style_steps"] == 0.0


def test_truncation_goes_to_the_captions_mean_and_from_there_to_that_of_all() -> None:
    style, of_caption, of_all = torch.tensor([[8.0]]), torch.tensor([[4.0]]), torch.tensor([0.0])
    assert truncated(style, of_caption, None, 0.5) == 6.0
    assert truncated(style, of_caption, of_all, 0.5) == 3.0
    assert truncated(style, of_caption, of_all, 1.0) == 8.0


@pytest.fixture(scope="module")
def model() -> Model:
    """A trained one of 8 px, with its mean style."""
    recipe, _ = build(small_case("gigagan"))
    return Model.from_weights(recipe, reference("gigagan").averages, device=torch.device("cpu"))


def drawn(model: Model, prompts: list[str], **told: Any) -> np.ndarray:
    return model.draw(prompts, seed=3, **told)


def test_a_second_caption_is_told_to_the_fine_levels_alone(model: Model) -> None:
    prompts = ["red apple", "blue heart"]
    same_again = drawn(model, ["red apple"], fine=("red apple", 8))
    assert np.array_equal(same_again, drawn(model, ["red apple"]))
    mixed = drawn(model, prompts, fine=("green square", 8))
    assert not np.array_equal(mixed, drawn(model, prompts))
    assert not np.array_equal(mixed, drawn(model, ["green square"] * 2)), "the coarse levels keep their own"


def test_levels_below_the_fine_ones_are_untouched() -> None:
    recipe = made(image_px=16)
    torch.manual_seed(0)
    nets = recipe.networks()
    ctx = context(recipe, nets, count=2)
    latent = ctx.draw.normal(8)
    own, other = (recipe._told_of(ctx, latent, [caption] * 2) for caption in ("red heart", "blue circle"))
    alone = nets["synthesis"](*own)
    for from_px in (8, 16):
        found = nets["synthesis"](*own, other, fine_from_px=from_px)
        for side, mixed, pure in zip(sides(16), found, alone, strict=True):
            assert torch.equal(mixed, pure) is (side < from_px), (from_px, side)


def test_fine_levels_that_there_are_not_say_which_there_are(model: Model) -> None:
    with pytest.raises(PromptError, match="from 7 px on: no level of its own; write --fine-from-px 8 or 16 or 32"):
        made(image_px=32).finer(["red heart"], 7)
    with pytest.raises(PromptError, match="write --fine-from-px 8"):
        drawn(model, ["red heart"], fine=("blue heart", 0))
    with pytest.raises(PromptError, match="leave --fine-prompt out"):
        build(small_case("dcgan"))[0].finer([""], 8)
