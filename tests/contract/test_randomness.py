"""Random numbers belong to samples: no split or device of a batch changes them, and their distribution is as said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gen_dist.recipes.randomness import Draw

SHAPES = [(), (3,), (4, 5, 2)]


def numbers(draw: Draw) -> list[torch.Tensor]:
    """One of each kind and shape, in turn."""
    kinds = (draw.normal, draw.uniform, lambda *shape: draw.integers(1000, *shape))
    return [kind(*shape) for kind in kinds for shape in SHAPES]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**63), first=st.integers(0, 2**40), cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5)
)
def test_a_split_batch_draws_what_the_joined_one_does(seed: int, first: int, cuts: list[int]) -> None:
    joined = numbers(Draw(seed=seed, first=first, count=sum(cuts)))
    starts = [first + sum(cuts[:part]) for part in range(len(cuts))]
    parts = [numbers(Draw(seed=seed, first=start, count=count)) for start, count in zip(starts, cuts, strict=True)]
    for turn, whole in enumerate(joined):
        assert torch.equal(torch.cat([part[turn] for part in parts]), whole)


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"first": 1}, {"turn": 1}], ids=["another seed", "another sample", "another turn"]
)
def test_other_keys_draw_unrelated_numbers(other: dict[str, int]) -> None:
    one = Draw(seed=0, first=0, count=1).normal(20_000)[0]
    two = Draw(**{"seed": 0, "first": 0, "count": 1} | other).normal(20_000)[0]
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 4 / 20_000**0.5


def test_a_draw_reads_and_moves_no_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = Draw(seed=0, first=0, count=2).normal(4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(Draw(seed=0, first=0, count=2).normal(4), first)


@pytest.mark.parametrize("axis", ["elements", "samples", "turns", "seeds"])
def test_numbers_have_the_distribution_that_they_say(axis: str) -> None:
    num = 20_000 if axis in ("elements", "samples") else 2_000

    def one(kind: str) -> torch.Tensor:
        if axis == "elements":
            return getattr(Draw(seed=3, first=5, count=1), kind)(num)[0]
        if axis == "samples":
            return getattr(Draw(seed=3, first=5, count=num), kind)()
        draws = [
            Draw(seed=i, first=5, count=1) if axis == "seeds" else Draw(seed=3, first=5, count=1, turn=i)
            for i in range(num)
        ]
        return torch.cat([getattr(draw, kind)() for draw in draws])

    assert stats.kstest(one("normal").numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(one("uniform").numpy(), "uniform").pvalue > 1e-3
    counts = torch.bincount(Draw(seed=3, first=5, count=num).integers(10), minlength=10)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_uniform_numbers_never_reach_an_end() -> None:
    drawn = Draw(seed=0, first=0, count=1000).uniform(1000)
    assert drawn.min() > 0
    assert drawn.max() < 1


@pytest.mark.gpu
def test_a_gpu_draws_the_numbers_of_a_cpu() -> None:
    on = {device: numbers(Draw(seed=7, first=11, count=64, device=device)) for device in ("cpu", "cuda")}
    for cpu, cuda in zip(on["cpu"], on["cuda"], strict=True):
        # cosine and logarithm differ in their last bits, nothing else does
        torch.testing.assert_close(cuda.cpu(), cpu, rtol=1e-5, atol=1e-5)
