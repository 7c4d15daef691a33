"""What decides a run without touching a network: positions of workers, learning rates, averages' decay."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_dist.job import arithmetic
from gen_dist.job.load import load_resolved
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Clock, Group, Phase
from gen_dist.train.averages import decay
from gen_dist.train.feed import images_of_step, own_positions
from gen_dist.train.rates import learning_rate


def job(**train: Any) -> JobSpec:
    sizes = {"total_images": 96, "global_batch_images": 24, "micro_batch_images": 1}
    return load_resolved(
        {"name": "x", "recipe": "ddpm", "data": {"url": "embedded://emoji"}, "train": {**sizes, **train}}
    )


class Critic:
    """A recipe whose second of every three steps draws new data for a second critic step."""

    def phases(self, clock: Clock) -> tuple[Phase, ...]:
        phases = (Phase("critic", "critic", lambda ctx, batch: {}),)
        return (*phases, Phase("more", "critic", lambda ctx, batch: {}, fresh=True)) if clock.step % 3 == 1 else phases


@given(workers=st.sampled_from([1, 2, 3, 4, 6, 8, 12, 24]), micro=st.sampled_from([1, 2, 3]), resumed=st.integers(0, 3))
def test_every_position_is_taken_once_by_any_number_of_workers(workers: int, micro: int, resumed: int) -> None:
    spec = job(micro_batch_images=micro, global_batch_images=144, total_images=1440)
    clock = Clock(images=0, step=0)
    for _ in range(resumed):
        clock = Clock(images=clock.images + images_of_step(Critic(), clock, 144), step=clock.step + 1)  # type: ignore[arg-type]
    taken = [
        position
        for rank in range(workers)
        for first, count in own_positions(Critic(), clock, job=spec, rank=rank, world_size=workers)  # type: ignore[arg-type]
        for position in range(first, first + count)
    ]
    assert sorted(taken) == list(range(clock.images, max(taken) + 1))
    assert max(taken) + 1 >= arithmetic.images_at_end(spec)


def test_the_first_micro_batches_of_all_workers_are_the_start_of_the_global_batch() -> None:
    spec = job(global_batch_images=8, micro_batch_images=2)
    firsts = [
        next(own_positions(Critic(), Clock(0, 0), job=spec, rank=rank, world_size=2))  # type: ignore[arg-type]
        for rank in range(2)
    ]
    assert firsts == [(0, 2), (2, 2)]


def test_a_warm_up_rises_in_a_line_and_the_cosine_falls_to_nothing_within_the_groups_span() -> None:
    spec = job(total_images=2400, warmup_images=240, schedule="cosine")
    group = Group(("net",), 1.0, span_images=(480, 2400))
    assert learning_rate(group, job=spec, images=480) == pytest.approx(24 / 240)
    assert learning_rate(group, job=spec, images=480 + 96) == pytest.approx(
        120 / 240 * 0.5 * (1 + math.cos(math.pi * 96 / 1920))
    )
    assert learning_rate(group, job=spec, images=480 + 960) == pytest.approx(0.5)
    assert learning_rate(group, job=spec, images=2400) == pytest.approx(0.0, abs=1e-12)


def test_a_constant_rate_is_the_groups_own() -> None:
    assert learning_rate(Group(("net",), 3e-4), job=job(), images=48) == pytest.approx(3e-4)


@given(batch=st.integers(1, 512), parts=st.integers(1, 8))
def test_the_average_decays_by_images_whatever_the_batch(batch: int, parts: int) -> None:
    whole = decay(batch * parts, half_life_images=10_000, images=1e9)
    assert decay(batch, half_life_images=10_000, images=1e9) ** parts == pytest.approx(whole)


def test_the_average_of_a_young_group_follows_its_weights() -> None:
    assert decay(64, half_life_images=10_000, images=64) < 1e-5
    assert decay(64, half_life_images=10_000, images=1e9) == pytest.approx(0.5 ** (64 / 10_000))


def test_a_run_that_passed_over_some_positions_takes_all_later_ones_in_their_order() -> None:
    spec = job(global_batch_images=8, micro_batch_images=2)
    plain = [list(own_positions(Critic(), Clock(16, 1), job=spec, rank=rank, world_size=2)) for rank in range(2)]  # type: ignore[arg-type]
    later = [
        list(own_positions(Critic(), Clock(16, 1), job=spec, rank=rank, world_size=2, shift=24))  # type: ignore[arg-type]
        for rank in range(2)
    ]
    assert later == [[(first + 24, count) for first, count in own] for own in plain]
