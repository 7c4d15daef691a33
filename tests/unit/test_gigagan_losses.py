"""GigaGAN's losses, each alone: against closed forms, or against the same written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gen_dist.nets.gigagan import losses
from gen_dist.nets.gigagan.discriminator import judgements
from gen_dist.nets.gigagan.pyramid import sides

LOGITS = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0], dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_adversarial_losses_are_minus_log_probabilities_and_never_overflow() -> None:
    share = torch.sigmoid(LOGITS)
    torch.testing.assert_close(losses.taken_for_fake(LOGITS), -share.log())
    torch.testing.assert_close(losses.taken_for_real(LOGITS), -torch.sigmoid(-LOGITS).log())
    far = torch.tensor([-1e4, 1e4])
    assert losses.taken_for_real(far).isfinite().all()
    assert losses.taken_for_fake(far).isfinite().all()


def test_the_generators_loss_has_a_slope_where_the_discriminator_is_sure() -> None:
    logit = torch.tensor([-20.0], requires_grad=True)
    losses.taken_for_fake(logit).sum().backward()
    assert logit.grad is not None
    assert float(logit.grad) == pytest.approx(-1.0, abs=1e-6)


def test_fifteen_judgements_are_weighted_by_level_and_exit() -> None:
    assert losses.level_weights(64) == pytest.approx([1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6])
    weights = losses.judgement_weights(64, early_exit=0.01)
    assert len(weights) == 15
    for (level, stage), weight in zip(judgements(64), weights.tolist(), strict=True):
        wanted = (1 / 3 if level == 0 else 1 / 6) * (1.0 if stage == 4 else 0.01)
        assert weight == pytest.approx(wanted), (level, stage)
    whole = weights[[stage == 4 for _, stage in judgements(64)]]
    assert float(whole.sum()) == pytest.approx(1.0)


def test_a_level_is_judged_by_the_mean_over_its_stages() -> None:
    logits = torch.randn(3, 15)
    found = losses.by_level(logits, 64, early_exit=0.5)
    for level in range(5):
        own = [(number, 1.0 if stage == 4 else 0.5) for number, (at, stage) in enumerate(judgements(64)) if at == level]
        wanted = sum(share * logits[:, number] for number, share in own) / sum(share for _, share in own)
        torch.testing.assert_close(found[:, level], wanted)
    last = losses.at_last_stage(logits, 64)
    torch.testing.assert_close(last, logits[:, 10:])
    torch.testing.assert_close(losses.by_level(logits, 64, early_exit=1e-9), last, rtol=1e-5, atol=1e-5)


def quadratic(leaves: list[Tensor]) -> Tensor:
    """(B, L): level l is judged by (l + 1) / 2 |x_l|^2, whose slope is (l + 1) x_l."""
    return torch.stack([0.5 * (level + 1) * leaf.square().sum((1, 2, 3)) for level, leaf in enumerate(leaves)], dim=1)


def leaves_of(image_px: int, count: int) -> list[Tensor]:
    return [torch.randn(count, 3, side, side, dtype=torch.float64).requires_grad_() for side in sides(image_px)]


def test_the_penalty_is_the_squared_slope_at_every_level() -> None:
    leaves = leaves_of(16, 4)
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    found = losses.slope_penalty(leaves, quadratic(leaves), weight)
    square = torch.stack([leaf.square().sum((1, 2, 3)) for leaf in leaves], dim=1)
    torch.testing.assert_close(found, square @ (weight * torch.tensor([1.0, 4.0, 9.0])))
    for slope, leaf, one, level in zip(
        torch.autograd.grad(found.sum(), leaves), leaves, weight.tolist(), range(3), strict=True
    ):
        torch.testing.assert_close(slope, 2.0 * one * (level + 1) ** 2 * leaf)  # it can be differentiated again


def test_the_penalty_by_differences_is_the_exact_one_in_the_mean_over_noise() -> None:
    leaves, sigma, draws = [leaf.detach() for leaf in leaves_of(16, 1)], 1e-3, 20_000
    weight = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    exact = losses.slope_penalty(
        live := [leaf.clone().requires_grad_() for leaf in leaves], quadratic(live), weight
    ).item()
    many = [leaf.expand(draws, -1, -1, -1) for leaf in leaves]
    moved = quadratic([leaf + sigma * torch.randn_like(leaf) for leaf in many])
    found = losses.difference_penalty(quadratic(many), moved, weight, sigma=sigma)
    error = float(found.std()) / math.sqrt(draws)
    assert abs(float(found.mean()) - exact) < 4 * error
    assert error < 0.02 * exact


def test_wrong_captions_are_those_of_neighbours_that_differ() -> None:
    captions = ["a", "b", "a", "c", "d", "d", "d", "d", "e", "f", "", "g"]
    weight = torch.tensor([1.0] * 10 + [0.0, 1.0])  # one could not be read
    index, found = losses.other_captions(captions, weight)
    for image, (other, share) in enumerate(zip(index.tolist(), found.tolist(), strict=True)):
        assert other // 4 == image // 4, "a caption of another micro-batch"
        if share:
            assert captions[other] != captions[image]
            assert weight[other] == 1.0
    assert found.tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 1]
    joined, halves = index.tolist(), []
    for start in (0, 4, 8):
        part, _ = losses.other_captions(captions[start : start + 4], weight[start : start + 4])
        halves += [start + other for other in part.tolist()]
    assert joined == halves


def test_images_of_every_micro_batch_have_neighbours() -> None:
    wanted = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 3, 7: 7, 8: 4, 9: 3, 10: 2, 12: 4, 16: 4, 25: 5, 35: 5}
    assert {number: losses.neighbours(number) for number in wanted} == wanted
    for number in range(1, 65):
        assert number % losses.neighbours(number) == 0
        assert number % 4 or losses.neighbours(number) == 4, "what was trained before means the same"


@pytest.mark.parametrize("number", [2, 3, 5, 6, 7, 9, 15])
def test_every_image_of_an_odd_micro_batch_has_a_wrong_caption(number: int) -> None:
    captions = [f"caption {image}" for image in range(number)]
    index, found = losses.other_captions(captions, torch.ones(number))
    assert found.tolist() == [1.0] * number
    assert all(other != image for image, other in enumerate(index.tolist()))
    assert sorted(index.tolist()) == list(range(number)), "each caption is wrong once"


def test_the_contrastive_loss_is_a_cross_entropy_of_cosines() -> None:
    image, text = torch.randn(4, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    found = losses.contrastive(3.0 * image, 0.1 * text, torch.ones(4, dtype=torch.float64), logit_scale=10.0)
    for row in range(4):
        cosines = [float(image[row] @ text[column] / image[row].norm() / text[column].norm()) for column in range(4)]
        total = sum(math.exp(10.0 * cosine) for cosine in cosines)
        assert float(found[row]) == pytest.approx(-math.log(math.exp(10.0 * cosines[row]) / total))


def test_the_contrastive_loss_of_equal_embeddings_is_the_log_of_their_number() -> None:
    same = torch.ones(6, 4)
    torch.testing.assert_close(
        losses.contrastive(same, same, torch.ones(6), logit_scale=100.0), torch.full((6,), math.log(6))
    )


def test_an_unreadable_image_is_no_candidate_and_costs_nothing() -> None:
    image, text = torch.randn(4, 8), torch.randn(4, 8)
    weight = torch.tensor([1.0, 0.0, 1.0, 1.0])
    found = losses.contrastive(image, text, weight, logit_scale=5.0)
    kept = [0, 2, 3]
    torch.testing.assert_close(found[kept], losses.contrastive(image[kept], text[kept], torch.ones(3), logit_scale=5.0))
    assert found[1] == 0.0


def test_captions_of_other_workers_are_more_candidates() -> None:
    image, text = torch.randn(2, 8), torch.randn(6, 8)
    few = losses.contrastive(image, text[:2], torch.ones(2), logit_scale=5.0)
    many = losses.contrastive(image, text, torch.ones(6), logit_scale=5.0)
    assert (many > few).all()


def test_saturation_is_how_much_of_the_slope_is_gone() -> None:
    assert losses.saturation(torch.tensor(0.0)) == 0.0
    assert losses.saturation(torch.tensor(30.0)) > 0.999
    assert losses.saturation(torch.tensor(-30.0)) > 0.999
