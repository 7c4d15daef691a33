"""`checkpoint_activations`: what is computed again is what was computed first, with weights that a route lends too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gen_dist.nets.gigagan.discriminator import Discriminator
from gen_dist.nets.gigagan.layers import leaky
from gen_dist.nets.gigagan.pyramid import pyramid
from gen_dist.nets.gigagan.recompute import computed_again
from gen_dist.nets.gigagan.sizes import SIZES
from gen_dist.nets.gigagan.synthesis import Synthesis
from gen_dist.nets.gigagan.upsampler import Upsampler
from gen_dist.train.engines import Route
from tests.contract import distributed, plain
from tests.contract.cases import Case, small_case
from tests.contract.test_engines import BF16, error
from tests.support.ranks import Ranks

NANO = replace(SIZES["nano"], activate=leaky)
MASK = torch.ones(4, 5, dtype=torch.bool)


def discriminator(again: bool) -> tuple[nn.Module, Callable[[Any], Tensor], Sequence[Tensor]]:
    net = Discriminator(NANO, image_px=16, checkpoint_stages=again)
    leaves, caption = pyramid(torch.randn(4, 3, 16, 16)), torch.randn(4, 2, NANO.text_width)
    return net, lambda route: route(leaves, caption), leaves


def synthesis(again: bool) -> tuple[nn.Module, Callable[[Any], Tensor], Sequence[Tensor]]:
    net = Synthesis(NANO, image_px=16, checkpoint_levels=again)
    style, words = torch.randn(4, NANO.style_width), torch.randn(4, 5, NANO.text_width)
    return net, lambda route: route(style, words, MASK)[0], (style,)


def upsampler(again: bool) -> tuple[nn.Module, Callable[[Any], Tensor], Sequence[Tensor]]:
    net = Upsampler(NANO, image_px=16, low_px=8, checkpoint_levels=again)
    for colours in net.colours:
        nn.init.normal_(colours.conv.kernels)  # zero at first, and so would be all slopes
    low, style, words = torch.randn(4, 3, 8, 8), torch.randn(4, NANO.style_width), torch.randn(4, 5, NANO.text_width)
    return net, lambda route: route(low, torch.full((4,), 0.1), style, words, MASK)[0], (low, style)


def penalised(made: Callable[[bool], Any], again: bool, *, precision: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The squared slope at the leaves, and its gradient at every weight, as a penalty of the recipe comes to them."""
    torch.manual_seed(0)
    net, called, leaves = made(again)
    if precision != "plain":
        for parameter in net.parameters():  # as DeepSpeed leaves them in bf16
            parameter.data = parameter.data.bfloat16()
    for leaf in leaves:
        leaf.requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the generators' own attention can be differentiated once alone
        result = called(net if precision == "plain" else Route("net", net, widened=True))
        assert result.dtype == torch.float32
        slopes = torch.autograd.grad(result.square().mean(), list(leaves), create_graph=True)
        square = torch.stack([slope.square().sum() for slope in slopes]).sum()
        weights = dict(net.named_parameters())
        found = torch.autograd.grad(square, list(weights.values()), allow_unused=True)
    return square, {name: slope for name, slope in zip(weights, found, strict=True) if slope is not None}


@pytest.mark.parametrize("precision", ["plain", "widened"])
@pytest.mark.parametrize("made", [discriminator, synthesis, upsampler])
def test_a_penalty_and_its_gradient_are_those_of_activations_that_were_kept(
    made: Callable[[bool], Any], precision: str
) -> None:
    (kept, wanted), (again, found) = (penalised(made, again, precision=precision) for again in (False, True))
    torch.testing.assert_close(again, kept, rtol=0, atol=0)
    assert found.keys() == wanted.keys()
    assert sum(bool(slope.abs().max() > 0) for slope in wanted.values()) > len(wanted) / 2
    for name, slope in wanted.items():
        torch.testing.assert_close(found[name], slope, rtol=0, atol=0, msg=name)


class Scaled(nn.Module):
    """sin(x times a weight and times a buffer), both in bf16; it notes as what it was called."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0, dtype=torch.bfloat16))
        self.register_buffer("scale", torch.full((3,), 3.0, dtype=torch.bfloat16))
        self.seen: list[tuple[torch.dtype, torch.dtype]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((self.weight.dtype, self.scale.dtype))
        return (x * self.weight * self.scale).sin()


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return computed_again(self.layer, x)


def test_buffers_are_widened_the_second_time_as_the_first() -> None:
    net, x = Holder(), torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    (slope,) = torch.autograd.grad(Route("net", net, widened=True)(x).sum(), x, create_graph=True)
    torch.testing.assert_close(slope, 6.0 * (6.0 * x).cos())
    slope.sum().backward()
    torch.testing.assert_close(x.grad, -36.0 * (6.0 * x).sin())
    assert len(net.layer.seen) > 1
    assert set(net.layer.seen) == {(torch.float32, torch.float32)}
    assert net.layer.scale.dtype == torch.bfloat16, "what was lent is taken back"


def game(recipe: str, *, again: bool) -> Case:
    """Four steps in bf16, the first with a penalty."""
    case = small_case(recipe, precision="bf16", total_images=64)
    return Case(
        case.job.model_copy(update={"model": {**case.job.model, "checkpoint_activations": again}}), eps=case.eps
    )


@pytest.mark.long
@pytest.mark.parametrize("recipe", ["gigagan", "gigagan_upsampler"])
def test_both_players_learn_in_bf16_what_they_learn_from_activations_that_are_kept(single: Ranks, recipe: str) -> None:
    (kept,), (again,) = (single.run(distributed.train, game(recipe, again=again)) for again in (False, True))
    start = plain.train(game(recipe, again=True)).start
    assert error(kept["weights"], start)[0] > 0.1
    moved, should = (
        np.concatenate([(end["weights"][name] - value.numpy()).ravel() for name, value in start.items()])
        for end in (again, kept)
    )
    assert np.linalg.norm(moved - should) <= BF16 * np.linalg.norm(should)
    for line, other in zip(kept["metrics"], again["metrics"], strict=True):
        losses = {name: value for name, value in line.items() if name.startswith("loss/")}
        assert losses
        assert {name: other[name] for name in losses} == pytest.approx(losses, rel=BF16, abs=BF16)
