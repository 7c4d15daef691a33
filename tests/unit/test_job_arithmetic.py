"""Batches, steps and events follow from a job alone, for every number of workers that it allows."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gen_dist.job.arithmetic import (
    accumulation,
    derived,
    due,
    engine_stage,
    images_at_end,
    images_per_worker,
    num_due,
    num_sample_grids,
    run_folder,
    steps,
    tracking_uri,
    world_sizes,
    zero_stage,
)
from gen_dist.job.limits import limit_problems, working_batches, working_micro_batch
from gen_dist.job.spec import ClusterSpec, DataSpec, JobSpec, RunSpec, TrainSpec


def job_of(*, num_workers: int | list[int] = 1, folder: str = "runs", **train: object) -> JobSpec:
    return JobSpec(
        name="try",
        recipe="gan",
        data=DataSpec(url="embedded://emoji"),
        train=TrainSpec.model_validate({"total_images": 1000, **train}),
        cluster=ClusterSpec(num_workers=num_workers),
        run=RunSpec(folder=folder),
    )


@given(st.integers(1, 4096), st.integers(1, 64), st.integers(1, 16))
def test_workers_times_micro_batch_times_accumulation_is_the_global_batch(size: int, micro: int, times: int) -> None:
    batch = size * micro * times
    job = job_of(num_workers=size, global_batch_images=batch, micro_batch_images=micro, total_images=batch)
    assert limit_problems(job, {}) == []
    assert accumulation(job, size) == times
    assert size * images_per_worker(job, size) == batch


@given(st.integers(1, 512), st.integers(0, 64), st.integers(1, 64), st.integers(1, 1 << 14))
def test_a_job_passes_exactly_if_its_smallest_number_of_workers_splits_its_batch(
    smallest: int, more: int, micro: int, batch: int
) -> None:
    sizes = [smallest, smallest + more]
    job = job_of(num_workers=sizes, global_batch_images=batch, micro_batch_images=micro, total_images=batch)
    fits = batch % (smallest * micro) == 0
    assert (limit_problems(job, {}) == []) == fits
    if fits:
        assert list(world_sizes(job)) == [
            size for size in range(smallest, smallest + more + 1) if batch % (size * micro) == 0
        ]
        assert derived(job, {})["accumulation"] == {str(size): batch // size // micro for size in world_sizes(job)}


@given(st.integers(1, 512), st.integers(0, 64), st.integers(1, 64), st.integers(1, 1 << 14))
def test_the_advised_batches_work_for_the_smallest_number_of_workers(
    smallest: int, more: int, micro: int, batch: int
) -> None:
    sizes = [smallest, smallest + more]
    job = job_of(num_workers=sizes, global_batch_images=batch, micro_batch_images=micro, total_images=1 << 40)
    assume(limit_problems(job, {}))
    changes = [{"global_batch_images": advised} for advised in working_batches(job)]
    changes += [{"micro_batch_images": advised} for advised in [working_micro_batch(job)] if advised]
    assert changes
    for change in changes:
        mended = job.model_copy(update={"train": job.train.model_copy(update=change)})
        assert limit_problems(mended, {}) == []


@given(st.integers(1, 65_536), st.integers(1, 1 << 20))
def test_any_number_of_workers_is_answered_with_a_remedy(largest: int, batch: int) -> None:
    job = job_of(num_workers=[min(largest, 300), 300], global_batch_images=batch, total_images=1 << 40)
    for problem in limit_problems(job, {}):
        line = problem.line("try.toml")
        assert "; " in line
        assert "\n" not in line
        assert len(line) < 500


@given(st.integers(1, 20_000), st.integers(1, 300), st.integers(0, 3000))
def test_the_number_of_events_is_what_the_loop_will_count(total: int, batch: int, every: int) -> None:
    assume(total >= batch)
    job = job_of(total_images=total, global_batch_images=batch, micro_batch_images=1)
    ends = [step * batch for step in range(1, steps(job) + 1)]
    happened = [images for images in ends if due(job, images=images, every_images=every)]
    assert len(happened) == num_due(job, every)
    assert happened[-1] == images_at_end(job) >= total > images_at_end(job) - batch
    if every:
        assert all(multiple <= happened[-1] for multiple in range(every, total + 1, every))
        assert {math.ceil(multiple / batch) * batch for multiple in range(every, total + 1, every)} <= set(happened)


@given(st.integers(1, 512))
def test_the_length_of_a_run_does_not_depend_on_its_workers(size: int) -> None:
    one = job_of(total_images=100_000, global_batch_images=512, micro_batch_images=1)
    many = job_of(total_images=100_000, global_batch_images=512, micro_batch_images=1, num_workers=size)
    assert steps(one) == steps(many) == math.ceil(100_000 / 512)


def test_a_world_size_that_does_not_split_the_batch_has_no_accumulation() -> None:
    with pytest.raises(ValueError, match="not a multiple of 3 workers x 32 images"):
        accumulation(job_of(), 3)


def test_a_run_without_sample_grids_draws_none() -> None:
    assert num_sample_grids(job_of(sample_every_images=0)) == 0
    assert num_sample_grids(job_of(sample_every_images=10_000)) == 1


def test_a_group_has_its_own_stage_or_that_of_all() -> None:
    job = job_of(zero_stage=2, zero_stages={"critic": 0})
    assert [zero_stage(job, group) for group in ("critic", "generator")] == [0, 2]
    assert derived(job, {"critic": 2, "generator": 3})["zero_stage"] == {"critic": 0, "generator": 2}


def test_one_fp32_worker_runs_every_group_at_stage_0() -> None:
    job = job_of(zero_stage=2, zero_stages={"critic": 3})
    assert [engine_stage(job, "critic", size) for size in (1, 2, 64)] == [0, 3, 3]
    assert [engine_stage(job, "generator", size) for size in (1, 2, 64)] == [0, 2, 2]
    narrow = job_of(zero_stage=2, precision="bf16")
    assert engine_stage(narrow, "generator", 1) == 2


@pytest.mark.parametrize(
    ("folder", "run", "uri"),
    [
        ("runs", "runs/try", "sqlite:///runs/mlflow.db"),
        ("/mnt/runs/", "/mnt/runs/try", "sqlite:////mnt/runs/mlflow.db"),
    ],
)
def test_a_run_writes_below_its_folder(folder: str, run: str, uri: str) -> None:
    assert run_folder(job_of(folder=folder)) == run
    assert tracking_uri(job_of(folder=folder)) == uri
