"""The order of samples: once each an epoch, whoever asks, however many ask."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen_dist.data.order import Order, own_part

worlds = st.integers(1, 64)
sizes = st.integers(1, 500)
batches = st.integers(1, 300)
seeds = st.integers(-(2**63), 2**64)


def read_by_workers(order: Order, *, world_size: int, batch: int, end: int) -> list[int]:
    """All sample numbers that the workers of a run take for the positions [0, end), in steps of a global batch."""
    taken: list[int] = []
    for position in range(0, end, batch):
        for rank in range(world_size):
            start, count = own_part(position, min(batch, end - position), rank=rank, world_size=world_size)
            taken += order.ids(start, count).tolist()
    return taken


@settings(max_examples=300, deadline=None)
@given(sizes, worlds, batches, seeds)
def test_every_sample_comes_once_an_epoch_for_any_number_of_workers(
    num_samples: int, world_size: int, batch: int, seed: int
) -> None:
    order = Order(seed=seed, num_samples=num_samples)
    taken = read_by_workers(order, world_size=world_size, batch=batch, end=2 * num_samples)
    for epoch in (taken[:num_samples], taken[num_samples:]):
        assert sorted(epoch) == list(range(num_samples))


@settings(max_examples=100, deadline=None)
@given(sizes, worlds, worlds, batches, batches)
def test_the_order_does_not_depend_on_the_number_of_workers_or_the_batch(
    num_samples: int, one: int, other: int, one_batch: int, other_batch: int
) -> None:
    order = Order(seed=3, num_samples=num_samples)
    end = 2 * num_samples
    first = read_by_workers(order, world_size=one, batch=one_batch, end=end)
    assert first == read_by_workers(order, world_size=other, batch=other_batch, end=end)


@given(sizes, st.integers(0, 2000), batches)
def test_a_range_is_what_its_positions_are_one_by_one(num_samples: int, start: int, count: int) -> None:
    order = Order(seed=7, num_samples=num_samples)
    single = [int(order.ids(position, 1)[0]) for position in range(start, start + count)]
    assert order.ids(start, count).tolist() == single


@given(st.integers(0, 1000), st.integers(0, 500), worlds)
def test_the_parts_of_the_workers_are_the_whole_and_differ_by_at_most_one(
    position: int, count: int, world: int
) -> None:
    parts = [own_part(position, count, rank=rank, world_size=world) for rank in range(world)]
    covered = [p for start, length in parts for p in range(start, start + length)]
    assert covered == list(range(position, position + count))
    lengths = [length for _, length in parts]
    assert max(lengths) - min(lengths) <= 1


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    order = Order(seed=0, num_samples=1000)
    orders = [order.ids(epoch * 1000, 1000) for epoch in range(5)]
    orders += [Order(seed=seed, num_samples=1000).ids(0, 1000) for seed in (1, 2, 2**40)]
    for number, one in enumerate(orders):
        for other in orders[:number]:
            assert (one == other).mean() < 0.02


def test_the_order_is_the_same_in_every_release() -> None:
    """A resumed run must go on in the order it began with, so these numbers never change."""
    assert Order(seed=1, num_samples=10).ids(0, 12).tolist() == GOLDEN


GOLDEN = [3, 5, 2, 9, 7, 0, 8, 6, 1, 4, 0, 6]


def test_an_order_pickles_without_its_permutation() -> None:
    order = Order(seed=1, num_samples=100_000)
    expected = order.ids(5, 50)
    data = pickle.dumps(order)
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).ids(5, 50), expected)


def test_a_new_epoch_of_a_million_samples_starts_within_a_fifth_of_a_second() -> None:
    order = Order(seed=1, num_samples=1_000_000)
    times_s = []
    for epoch in range(3):
        start_s = time.perf_counter()
        order.ids(epoch * 1_000_000, 32)
        times_s.append(time.perf_counter() - start_s)
    assert min(times_s) < 0.2


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, -1)])
def test_positions_before_the_start_are_refused(start: int, count: int) -> None:
    with pytest.raises(ValueError, match="positions start at 0"):
        Order(seed=0, num_samples=3).ids(start, count)


def test_no_order_without_samples_and_no_part_for_a_rank_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Order(seed=0, num_samples=0)
    with pytest.raises(ValueError, match="rank=2 of world_size=2"):
        own_part(0, 4, rank=2, world_size=2)
