"""The arithmetic of a plan: states by stage, traffic of rings, the census of steps, memory's fullest moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gen_dist.job.load import load_job
from gen_dist.job.spec import JobSpec
from gen_dist.plan.census import WALKED_STEPS, step_kinds
from gen_dist.plan.duration import Setting, compute_s
from gen_dist.plan.errors import PlanError
from gen_dist.plan.gpus import GPUS, find_gpu
from gen_dist.plan.memory import gpu_memory
from gen_dist.plan.states import BUCKET_ELEMENTS, GroupSize, States, group_states
from gen_dist.plan.trace import PhaseCost
from gen_dist.plan.traffic import backward_traffic, duration_s, gather_traffic, step_traffic
from gen_dist.recipes.contract import Clock, Phase

SIZE = GroupSize((600, 300, 100), fixed=0, average=True)


def states(stage: int, workers: int = 4, precision: str = "bf16", offload: bool = False) -> States:
    return group_states(
        SIZE, stage=stage, workers=workers, precision=precision, persistence_elements=100, offload=offload
    )


def test_what_a_stage_splits_is_split_by_the_workers() -> None:
    whole = 4 + 8 + 4  # bytes of a parameter: fp32 master, two moments, average
    assert states(0).optimizer == whole * 1000
    assert states(1).optimizer == states(2).optimizer == states(3).optimizer == whole * 250
    assert states(0).weights == states(1).weights == states(2).weights == 2 * 1000
    assert states(3).weights == 2 * (250 + 100)  # the smallest stays whole
    assert states(0).gradients == states(1).gradients == 2 * 1000
    assert states(3).held_gradients == 2 * 250
    assert states(0, precision="fp32").optimizer == (8 + 4) * 1000  # no masters beside fp32 weights


def test_a_worker_holds_each_gradient_that_touches_its_partition_as_a_whole() -> None:
    # partitions of 250: the first three touch the parameter of 600, the third that of 300 too, the last 300 and 100
    assert states(2).gradients == 2 * (600 + 300)
    one = GroupSize((8,) * 5, fixed=0, average=False)
    found = group_states(one, stage=2, workers=5, precision="fp32", persistence_elements=0)
    assert found.gradients == 4 * 8


@pytest.mark.parametrize("workers", [1, 2, 7, 64, 4096])
def test_more_workers_never_need_more_memory_each(workers: int) -> None:
    large = GroupSize((1_000_000, 50_000, 3), fixed=10, average=True)
    for stage in (1, 2, 3):
        common: dict[str, Any] = {"stage": stage, "precision": "bf16", "persistence_elements": 100}
        one, twice = (group_states(large, workers=count, **common) for count in (workers, 2 * workers))
        assert twice.optimizer <= one.optimizer
        assert twice.optimizer * 2 * workers >= 16 * 1_050_003  # nothing is lost


def test_offload_moves_what_the_optimizer_holds() -> None:
    on, off = states(2, offload=True), states(2)
    assert on.optimizer == 0
    assert on.host >= off.optimizer
    assert on.weights == off.weights


def test_traffic_is_that_of_ring_algorithms() -> None:
    common: dict[str, Any] = {"workers": 4, "precision": "fp32"}
    one_way = 3 / 4 * 4 * 1000
    kept: dict[str, Any] = {**common, "persistence_elements": 0}
    assert step_traffic(SIZE, stage=0, **kept).sent_bytes == pytest.approx(2 * one_way)
    assert step_traffic(SIZE, stage=1, **kept).sent_bytes == pytest.approx(3 * one_way)  # and the new weights
    assert step_traffic(SIZE, stage=2, **kept).sent_bytes == pytest.approx(one_way)
    assert backward_traffic(SIZE, stage=2, **common).sent_bytes == pytest.approx(2 * one_way)
    assert backward_traffic(SIZE, stage=3, **common).sent_bytes == pytest.approx(one_way)
    assert backward_traffic(SIZE, stage=1, **common).sent_bytes == 0
    assert gather_traffic(SIZE, **kept).sent_bytes == pytest.approx(one_way)
    assert step_traffic(SIZE, stage=0, workers=1, precision="fp32", persistence_elements=0).sent_bytes == 0


def test_a_ring_over_machines_is_as_fast_as_their_networks_together() -> None:
    gpu = find_gpu("l40s")
    size = GroupSize((500_000_000,), 0, average=False)
    inside, outside = (
        duration_s(
            step_traffic(size, stage=0, workers=count, precision="bf16", persistence_elements=0), gpu, workers=count
        )
        for count in (8, 9)
    )
    assert gpu.gpus_per_node * gpu.network_bytes_per_s > gpu.link_bytes_per_s
    assert outside == pytest.approx(inside, rel=0.05)
    slow = find_gpu("l40s", network_gbit_per_s=1.0)
    traffic = step_traffic(size, stage=0, workers=16, precision="bf16", persistence_elements=0)
    assert duration_s(traffic, slow, 16) > 10 * inside


def test_an_unknown_gpu_is_told_with_the_likely_one() -> None:
    with pytest.raises(PlanError, match=r"--gpu h10: unknown GPU; did you mean 'h100'\? known: a100-40, "):
        find_gpu("h10")


@pytest.mark.parametrize("gpu", GPUS.values(), ids=GPUS)
def test_the_numbers_of_a_gpu_are_in_the_units_of_their_names(gpu: Any) -> None:
    assert 10e9 < gpu.memory_bytes < 1e12
    assert 1e13 < gpu.fp32_flops_per_s < gpu.bf16_flops_per_s < 1e16
    assert gpu.memory_bytes_per_s > gpu.link_bytes_per_s > gpu.network_bytes_per_s > 1e8
    assert gpu.source


def cost(name: str, group: str, activation_bytes: int) -> PhaseCost:
    return PhaseCost(
        name,
        group,
        True,
        activation_bytes,
        flops=1,
        moved_bytes=1,
        num_kernels=1,
        calls={},
        called_groups=(group,),
        precision="fp32",
    )


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_phase_takes_the_time_of_the_precision_that_it_computes_in(precision: str) -> None:
    gpu = find_gpu("h100")
    found = replace(cost("one", "a", 10), flops=10**15, precision=precision)
    took = compute_s(found, Setting(gpu, 4, "bf16", 0, mfu={"bf16": 0.3, "fp32": 0.5}))
    peaks = {"bf16": 0.3 * 989.4e12, "fp32": 0.5 * 66.9e12}  # of the H100's datasheet
    assert took == (pytest.approx(10**15 / peaks[precision], rel=0.01), "FLOPs")


def test_parts_add_up_at_the_fullest_moment() -> None:
    found = {"a": states(2), "b": states(0)}
    costs = {"one": cost("one", "a", 10), "two": cost("two", "b", 10_000_000_000)}
    memory = gpu_memory(found, costs, frozen_bytes=7, batch_bytes=5)
    assert memory.moment == "backward of two"  # the bucket of phase one is gone by then
    assert memory.activations == 10_000_000_000
    assert memory.buffers == 0
    assert memory.weights == 7 + found["a"].weights + found["b"].weights
    less = gpu_memory(found, {"one": costs["one"]}, frozen_bytes=7, batch_bytes=5)
    assert less.moment == "backward of one"
    assert less.buffers == 2 * SIZE.total


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_bucket_holds_its_group_and_no_more_than_the_most(stage: int) -> None:
    for total, elements in ((1_000, 1_000), (2 * BUCKET_ELEMENTS, BUCKET_ELEMENTS)):
        size = GroupSize((total,), fixed=0, average=False)
        found = group_states(size, stage=stage, workers=2, precision="bf16", persistence_elements=0)
        assert found.held_staging + found.staging == 2 * elements


class Regimes:
    """Phase `a` to a threshold, then `b`; every 24 steps also `c`, which draws another batch."""

    def __init__(self, threshold_images: int) -> None:
        self._threshold_images = threshold_images
        self.settings = SimpleNamespace()

    def phases(self, clock: Clock) -> Sequence[Phase]:
        first = "a" if clock.images < self._threshold_images else "b"
        phases = (Phase(first, "group", lambda ctx, batch: {}),)
        again = (Phase("c", "group", lambda ctx, batch: {}, fresh=True),)
        return phases + again if clock.step % 24 == 0 else phases


def job_of(steps: int) -> JobSpec:
    sets = [f"train.total_images={steps * 16}", "train.warmup_images=0"]
    return load_job("jobs/smoke/ddpm.toml", sets)


@pytest.mark.parametrize("steps", [24 * 100, 24 * WALKED_STEPS])
def test_the_census_knows_how_often_each_kind_of_step_comes(steps: int) -> None:
    recipe: Any = Regimes(threshold_images=steps * 16 // 4)
    kinds = {kind.phases: kind for kind in step_kinds(recipe, job_of(steps))}
    assert kinds.keys() == {("a", "c"), ("a",), ("b", "c"), ("b",)}
    images = sum(kind.num_steps * kind.batches for kind in kinds.values())
    assert images == pytest.approx(steps)  # every image of the run is learned from once
    of_a = kinds["a",].num_steps + kinds["a", "c"].num_steps
    of_all = sum(kind.num_steps for kind in kinds.values())
    assert of_a / of_all == pytest.approx(0.25, abs=0.002)
    assert kinds["b", "c"].num_steps / kinds["b",].num_steps == pytest.approx(1 / 23, rel=0.1)
