"""Random transforms of what GigaGAN's discriminator sees: what each kind does, and how often it is done."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from gen_dist.nets.gigagan.pyramid import pyramid
from gen_dist.recipes.contract import Clock, Ctx
from gen_dist.recipes.gigagan import Settings
from gen_dist.recipes.gigagan_augment import Augment
from gen_dist.recipes.gigagan_transforms import COLOURS, PLACES, Transform, transform
from gen_dist.recipes.randomness import Draw

KINDS = [*PLACES, *COLOURS]
SIDE = 16


def drawn(kinds: list[str], probability: float, *, count: int = 6, first: int = 0) -> Transform:
    return transform(Draw(seed=0, first=first, count=count), kinds, probability, image_px=SIDE)


@pytest.fixture
def levels() -> list[Tensor]:
    """A smooth pyramid."""
    torch.manual_seed(0)
    coarse = torch.rand(6, 3, 4, 4) * 2 - 1
    return pyramid(F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic"))


def test_the_settings_name_every_kind_and_refuse_others() -> None:
    assert Settings(augment_kinds=KINDS).augment_kinds == tuple(KINDS)
    with pytest.raises(ValidationError, match="augment_kinds"):
        Settings(augment_kinds=["blur"])


def test_a_probability_of_nothing_changes_no_bit_and_one_of_1_every_image(levels: list[Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(drawn(KINDS, 0.0)(levels), levels, strict=True))
    for found, level in zip(drawn(KINDS, 1.0)(levels), levels, strict=True):
        assert ((found - level).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


def test_half_of_the_images_at_a_probability_of_a_half() -> None:
    found = drawn(["flip"], 0.5, count=4000).is_moved.float().mean()
    assert abs(float(found) - 0.5) < 5 * 0.5 / math.sqrt(4000)


def test_each_kind_is_applied_by_itself() -> None:
    found = drawn(["flip", "translate"], 0.5, count=4000)
    is_flipped, is_shifted = found.place[:, 0, 0] < 0, (found.place[:, :2, 2] != 0).any(dim=1)
    for share, wanted in (
        (is_flipped, 0.5),
        (is_shifted, 0.5 * (1 - 1 / 16)),  # a quarter of the shifts of up to 2 px is 0, each way
        (is_flipped & is_shifted, 0.25 * (1 - 1 / 16)),
        (found.is_moved, 0.75),
    ):
        assert abs(float(share.float().mean()) - wanted) < 0.05


def test_an_image_has_its_own_transform_whatever_the_batch(levels: list[Tensor]) -> None:
    whole = drawn(KINDS, 0.5)(levels)
    parts = [drawn(KINDS, 0.5, count=2, first=first)([level[first : first + 2] for level in levels]) for first in (2,)]
    torch.testing.assert_close([level[2:4] for level in whole], parts[0])
    both = Transform.joined([drawn(KINDS, 0.5), drawn(KINDS, 0.5)])([torch.cat([level, level]) for level in levels])
    assert all(torch.equal(*level.chunk(2)) for level in both), "of one image, real and drawn"


@pytest.mark.parametrize("kinds", [["flip"], list(COLOURS)])
def test_the_levels_stay_a_pyramid(levels: list[Tensor], kinds: list[str]) -> None:
    found = drawn(kinds, 1.0)(levels)
    torch.testing.assert_close(found, pyramid(found[0]), rtol=1e-4, atol=1e-5)


def test_places_move_as_they_are_named(levels: list[Tensor]) -> None:
    image = levels[0]
    torch.testing.assert_close(drawn(["flip"], 1.0)([image])[0], image.flip(3), rtol=1e-4, atol=1e-5)
    moved = drawn(["translate"], 1.0)
    shifts = (moved.place[:, :2, 2] * SIDE / 2).round().int().tolist()
    assert all(abs(pixels) <= 2 for shift in shifts for pixels in shift)
    assert any(pixels for shift in shifts for pixels in shift)
    for one, before, (right, down) in zip(moved([image])[0], image, shifts, strict=True):
        wanted = before.roll((-down, -right), dims=(1, 2))  # equal but for the rim, which is mirrored
        torch.testing.assert_close(one[:, 2:-2, 2:-2], wanted[:, 2:-2, 2:-2], rtol=1e-4, atol=1e-5)
    spans = drawn(["scale"], 1.0, count=500).place[:, 0, 0].log2()
    assert abs(float(spans.std()) - 0.2) < 0.03
    turned = drawn(["rotate"], 1.0, count=500).place
    torch.testing.assert_close(turned[:, :2, :2].det(), torch.ones(500))
    assert abs(float(torch.atan2(turned[:, 1, 0], turned[:, 0, 0]).std()) - math.radians(5)) < 0.02


def test_colours_change_as_they_are_named(levels: list[Tensor]) -> None:
    image = levels[0]
    added = drawn(["brightness"], 1.0)([image])[0] - image
    torch.testing.assert_close(added, added[:, :1, :1, :1].expand_as(added), rtol=0, atol=1e-6)
    factor = drawn(["contrast"], 1.0)([image])[0] / image
    torch.testing.assert_close(factor, factor[:, :1, :1, :1].expand_as(factor), rtol=1e-3, atol=1e-3)
    grey = image.mean(dim=1, keepdim=True)
    for kind in ("saturation", "hue"):
        found = drawn([kind], 1.0)([image])[0]
        torch.testing.assert_close(found.mean(dim=1, keepdim=True), grey, rtol=1e-4, atol=1e-5)
        lengths = (found - grey).norm(dim=1) / (image - grey).norm(dim=1)
        torch.testing.assert_close(lengths, lengths[:, :1, :1].expand_as(lengths), rtol=1e-2, atol=1e-2)
        if kind == "hue":
            torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-3, atol=1e-3)
    plain = grey.expand_as(image)
    torch.testing.assert_close(drawn(["saturation", "hue"], 1.0)([plain])[0], plain, rtol=1e-4, atol=1e-5)


def test_transforms_are_as_strong_as_those_of_karras() -> None:
    """Appendix B: sigma 0.2 of brightness, and of the log2 of contrast 0.5 and of saturation 1; hue all around."""
    many = {kind: drawn([kind], 1.0, count=2000).colour for kind in COLOURS}
    assert abs(float(many["brightness"][:, 0, 3].std()) - 0.2) < 0.02
    assert abs(float(many["contrast"][:, 0, 0].log2().std()) - 0.5) < 0.05
    away = torch.tensor([1.0, -1.0, 0.0]) / math.sqrt(2.0)  # from grey
    scaled = (many["saturation"][:, :3, :3] @ away).norm(dim=1)
    assert abs(float(scaled.log2().std()) - 1.0) < 0.1
    turned = many["hue"][:, :3, :3] @ away
    assert float(turned.mean(dim=0).norm()) < 0.1
    assert float((turned @ away).min()) < -0.95
    shifts = drawn(["translate"], 1.0, count=2000).place[:, :2, 2] / 2
    assert float(shifts.abs().max()) == 0.125
    assert float(shifts.mean().abs()) < 0.01


def test_a_gradient_comes_back_through_every_transform(levels: list[Tensor]) -> None:
    image = levels[0].requires_grad_()
    (slope,) = torch.autograd.grad(drawn(KINDS, 1.0)([image])[0].square().sum(), image)
    assert slope.isfinite().all()
    assert (slope.abs().sum(dim=(1, 2, 3)) > 0).all()


def context(step: int, *, mean: Any = lambda value: value) -> Ctx:
    draw, clock = Draw(seed=0, first=0, count=4), Clock(images=100 * step, step=step)
    return Ctx(nets={}, frozen={}, clock=clock, draw=draw, device=torch.device("cpu"), mean=mean)


def played(augment: Augment, signs: list[float], *, first: int = 0) -> list[float]:
    """The probability of each of these steps, of two micro-batches, whose real logits are 3 * sign."""
    found = []
    for step, sign in enumerate(signs, start=first):
        logged = [
            augment.watch(context(step), torch.full((4, 2), 3.0 * sign), torch.tensor([1.0, 1.0, 0.0, 1.0]))
            for _ in range(2)
        ]
        one, other = (float(each["augment_probability"]) for each in logged)
        assert one == other, "a step has one probability"
        found.append(one)
    return found


def test_the_probability_follows_the_sign_of_real_logits_by_images() -> None:
    settings = Settings(augment="adaptive", augment_images=1000, augment_target=0.6)
    one = Augment(settings)
    found = played(one, [1, 1, 1, 0.0, -1, -1, -1, 1, 1])
    wanted = [0.0, 0.0, 0.1, 0.2, 0.1, 0.0, 0.0, 0.0, 0.1]
    assert found == pytest.approx(wanted, abs=1e-6), "a step moves it when the next one begins"
    other = Augment(settings)
    other.load_state_dict(one.state_dict())
    assert played(other, [1.0] * 12, first=9) == played(one, [1.0] * 12, first=9)
    assert float(one.state_dict()["augment_probability"]) == 1.0


def test_a_step_of_which_nothing_could_be_read_moves_nothing() -> None:
    one = Augment(Settings(augment="adaptive", augment_images=1000))
    played(one, [1, 1, 1])
    before = float(one.state_dict()["augment_probability"])
    one.watch(context(3), torch.full((4, 2), torch.nan), torch.zeros(4))
    assert float(one.state_dict()["augment_probability"]) == before == pytest.approx(0.2)


def test_an_image_and_its_drawing_are_transformed_each_on_its_own(levels: list[Tensor]) -> None:
    own = [level[:4] for level in levels]
    augment = Augment(Settings(augment="fixed", augment_probability=1.0, image_px=SIDE))
    one, other = augment(context(0), [torch.cat([level, level]) for level in own])[0].chunk(2)
    assert ((one - other).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


def test_without_it_nothing_is_drawn_or_kept(levels: list[Tensor]) -> None:
    ctx = context(0)
    none = Augment(Settings())
    assert none(ctx, levels) == levels
    assert ctx.draw.turn == 0
    assert none.watch(ctx, levels[0].flatten(1), torch.ones(6)) == {}
    assert none.state_dict() == Augment(Settings(augment="fixed")).state_dict() == {}
