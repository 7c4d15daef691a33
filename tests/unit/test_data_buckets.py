"""Aspect-ratio buckets: batches of one size, each sample still once an epoch, and less of each picture cut away."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_dist.data.buckets import Bucketed, buckets, with_buckets
from gen_dist.data.mixture import Mixture
from gen_dist.data.order import Order, Plan

SIZES = buckets(512)
BLOCKS = st.lists(st.integers(1, 20), min_size=1, max_size=30)
# lanes, window, run, runs in a batch: any number of workers that divides lanes and runs may take part
SHAPES = st.tuples(st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(1, 300), st.integers(1, 4), st.integers(1, 12))


def aspects_of(num_samples: int, *, seed: int = 0) -> np.ndarray:
    """Log of width / height as photographs have it: a third each tall, square and wide, and some unknown."""
    draw = np.random.default_rng(seed)
    centre = draw.choice([math.log(2 / 3), 0.0, math.log(3 / 2)], num_samples)
    return np.where(draw.random(num_samples) < 0.05, 0.0, centre + draw.normal(0, 0.15, num_samples))


def order_of(blocks: list[int], shape: tuple[int, int, int, int], *, seed: int = 0) -> Bucketed:
    lanes, window, run, runs = shape
    plan = with_buckets(Plan(lanes, window, run), sizes=SIZES, batch=run * runs)
    inner = Order(seed=seed, num_in_block=np.array(blocks), plan=plan)
    return Bucketed(inner, aspects=aspects_of(inner.num_samples).__getitem__, seed=seed)


@pytest.mark.parametrize("image_px", [8, 16, 64, 80, 256, 512, 1024])
def test_buckets_have_the_square_and_no_more_pixels_than_it(image_px: int) -> None:
    found = buckets(image_px)
    assert (image_px, image_px) in found
    for height_px, width_px in found:
        assert (width_px, height_px) in found
        assert 0.7 * image_px**2 <= height_px * width_px <= image_px**2
        assert max(height_px, width_px) <= 2 * min(height_px, width_px)
    aspects = [width_px / height_px for height_px, width_px in found]
    assert aspects == sorted(set(aspects))
    assert len(found) >= 3


@given(multiple_px=st.sampled_from([1, 8, 16, 32]), times=st.integers(1, 40), max_aspect=st.floats(1.0, 5.0))
def test_buckets_are_multiples_of_what_the_networks_divide_by(multiple_px: int, times: int, max_aspect: float) -> None:
    for size in buckets(multiple_px * times, multiple_px=multiple_px, max_aspect=max_aspect):
        assert all(side_px % multiple_px == 0 for side_px in size)
        assert max(size) <= max_aspect * min(size)


@settings(max_examples=100, deadline=None)
@given(BLOCKS, SHAPES, st.integers(-(2**63), 2**64))
def test_every_sample_comes_once_an_epoch(blocks: list[int], shape: tuple[int, int, int, int], seed: int) -> None:
    order = order_of(blocks, shape, seed=seed)
    size = order.num_samples
    ids = order.ids(0, 3 * size)
    for epoch in range(3):
        assert sorted(ids[epoch * size : (epoch + 1) * size]) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(BLOCKS, SHAPES, st.integers(0, 1000), st.integers(1, 200))
def test_a_range_is_what_its_positions_are_one_by_one(
    blocks: list[int], shape: tuple[int, int, int, int], start: int, count: int
) -> None:
    order = order_of(blocks, shape)
    single, sizes = [], []
    for position in range(start, start + count):
        fresh = order if position % 7 else order_of(blocks, shape)  # a restart: nothing is remembered
        single.append(int(fresh.ids(position, 1)[0]))
        sizes.append(fresh.bucket(position))
    assert order.ids(start, count).tolist() == single
    batch = order.plan.bucket_batch
    for first in range(start // batch * batch, start + count, batch):
        assert len(set(sizes[max(0, first - start) : max(0, first - start + batch)])) <= 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=10), min_size=1, max_size=3),
    SHAPES,
    st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)
def test_every_sample_of_a_mixture_comes_once_in_each_epoch_of_its_source(
    sources: list[list[int]], shape: tuple[int, int, int, int], weights: list[float]
) -> None:
    lanes, window, run, runs = shape
    plan = with_buckets(Plan(lanes, window, run), sizes=SIZES, batch=run * runs)
    weights = weights[: len(sources)]
    inner = Mixture(seed=0, sources=[np.array(blocks) for blocks in sources], weights=weights, plan=plan)
    order = Bucketed(inner, aspects=aspects_of(inner.num_samples).__getitem__, seed=0)
    ids, first = order.ids(0, 600), 0
    for blocks in sources:
        size = sum(blocks)
        own = ids[(ids >= first) & (ids < first + size)]
        for begin in range(0, len(own), size):
            part = own[begin : begin + size]
            assert len(set(part.tolist())) == len(part)
        first += size


@pytest.fixture(scope="module")
def photographs() -> Bucketed:
    return order_of([100] * 600, (12, 5000, 16, 12))  # 312 batches of 192 in an epoch of 60,000


def test_most_batches_hold_one_bucket_and_the_others_near_ones(photographs: Bucketed) -> None:
    aspects, batch = aspects_of(photographs.num_samples), photographs.plan.bucket_batch
    log_aspect = np.log([width_px / height_px for height_px, width_px in SIZES])
    pure, distance, square = [], [], []
    for first in range(0, photographs.num_samples - batch, batch):
        own = aspects[photographs.ids(first, batch)]
        nearest = np.abs(own[:, None] - log_aspect).argmin(axis=1)
        pure.append((nearest == SIZES.index(photographs.bucket(first))).mean())
        height_px, width_px = photographs.bucket(first)
        distance.append(np.abs(own - math.log(width_px / height_px)).mean())
        square.append(np.abs(own).mean())
    assert np.mean(np.array(pure) == 1.0) > 0.6
    assert np.mean(pure) > 0.85
    assert np.mean(distance) < 0.35 * np.mean(square)  # log of the share that is kept, against squares


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_a_worker_meets_the_samples_that_it_would_meet_without_buckets(photographs: Bucketed, world_size: int) -> None:
    """So it reads no more; and all workers have the same size at each step, whatever their number."""
    run, batch = photographs.plan.run, photographs.plan.bucket_batch
    count = photographs.num_samples // batch * batch
    rank = (np.arange(count) // run) % world_size
    plain, grouped = (order.ids(0, count) for order in (photographs.inner, photographs))
    assert (plain != grouped).mean() > 0.9
    for number in range(world_size):
        assert sorted(plain[rank == number]) == sorted(grouped[rank == number])


def test_neighbouring_batches_are_of_many_sizes(photographs: Bucketed) -> None:
    batch = photographs.plan.bucket_batch
    sizes = [photographs.bucket(first * batch) for first in range(64)]
    changes = sum(one != other for one, other in itertools.pairwise(sizes))
    assert changes > 32
    assert set(sizes) >= {(512, 512), (640, 384), (384, 640)}


def test_another_seed_puts_batches_in_another_order() -> None:
    sizes = [
        [order_of([100] * 30, (2, 3000, 8, 4), seed=seed).bucket(32 * batch) for batch in range(30)] for seed in (0, 1)
    ]
    assert sizes[0] != sizes[1]


def test_a_plan_comes_back_from_a_checkpoint(photographs: Bucketed) -> None:
    assert Plan(**json.loads(json.dumps(asdict(photographs.plan)))) == photographs.plan


def test_one_size_leaves_everything_a_square() -> None:
    plan = with_buckets(Plan(2, 100, 4), sizes=[(16, 16)], batch=8)
    inner = Order(seed=0, num_in_block=np.array([50]), plan=plan)
    order = Bucketed(inner, aspects=aspects_of(50).__getitem__, seed=0)
    assert {order.bucket(position) for position in range(200)} == {(16, 16)}
