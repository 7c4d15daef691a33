"""The assignment of samples at the size of the largest clusters: 4,096 workers, 1,000,000 shards, joins and losses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest

from gen_dist.data.audit import fingerprint
from gen_dist.data.order import Order, Plan
from gen_dist.job import arithmetic
from gen_dist.job.load import load_job
from gen_dist.job.spec import JobSpec
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.train.feed import own_positions
from tests.support import cli

MOST_WORKERS, NUM_SHARDS, MICRO_IMAGES = 4096, 1_000_000, 16
STEP_IMAGES = 3 * MOST_WORKERS * MICRO_IMAGES  # thirds of the cluster may be lost too
SAMPLE_BYTES, SHUFFLE_BYTES = 1 << 20, 512 << 20  # shards of one block, 8 MiB


@dataclass(frozen=True)
class Group:
    """Workers that train together until machines join or are lost."""

    world_size: int
    steps: int
    """Of the last checkpoint: they count."""
    lost: int = 0
    """Steps after it: made, lost with a machine, and made again by the next group."""


EVENTS = (
    Group(1024, 4),
    Group(2048, 3),  # joined
    Group(4096, 9, lost=3),
    Group(3072, 5, lost=1),
    Group(1536, 2, lost=2),
    Group(1, 1),  # all but one are lost
    Group(4096, 7, lost=4),
    Group(512, 3),
    Group(4096, 9),
)


@pytest.fixture(scope="module")
def shards() -> np.ndarray:
    """(1,000,000,) samples in each shard, of one block: 1 to 15."""
    return np.random.default_rng(5).integers(1, 16, NUM_SHARDS).astype(np.int32)


@pytest.fixture(scope="module")
def job() -> JobSpec:
    keys = {"global_batch_images": STEP_IMAGES, "micro_batch_images": MICRO_IMAGES, "total_images": 1 << 30}
    where = str(cli.ROOT / "jobs" / "smoke" / "ddpm.toml")
    return load_job(where, [f"train.{key}={value}" for key, value in keys.items()])


def order_of(shards: np.ndarray) -> Order:
    """As every worker makes it when its group starts, out of the index and what the checkpoint keeps."""
    return Order(seed=11, num_in_block=shards, plan=plan_of(shards))


def plan_of(shards: np.ndarray) -> Plan:
    num_samples = int(shards.sum())
    size = {"num_samples": num_samples, "num_bytes": num_samples * SAMPLE_BYTES, "run": MICRO_IMAGES}
    return Plan.fitting(**size, workers=MOST_WORKERS, shuffle_bytes=SHUFFLE_BYTES)


def steps_of(group: Group, clock: Clock, *, job: JobSpec, recipe: Recipe) -> np.ndarray:
    """(steps, images) int64: the positions that all workers together ask for in each step, in rising order."""
    parts = arithmetic.accumulation(job, group.world_size)
    share = {"job": job, "world_size": group.world_size}
    steps = []
    workers = [own_positions(recipe, clock, rank=rank, **share) for rank in range(group.world_size)]
    for _ in range(group.steps + group.lost):
        asked = [micro for worker in workers for micro in islice(worker, parts)]
        assert {count for _, count in asked} == {MICRO_IMAGES}
        firsts = np.sort(np.array([first for first, _ in asked], np.int64))
        steps.append((firsts[:, None] + np.arange(MICRO_IMAGES)).reshape(-1))
    return np.stack(steps)


@pytest.mark.long
def test_joins_and_losses_of_4096_workers_lose_and_double_none_of_1_000_000_shards(
    shards: np.ndarray, job: JobSpec
) -> None:
    """Every sample of every shard is counted, over what all workers ask for in the steps that count."""
    recipe = catalog.build(job.recipe, job.model)
    clock, taken = Clock(images=0, step=0), []
    redone: dict[int, int] = {}  # step -> fingerprint of its samples
    for group in EVENTS:
        positions = steps_of(group, clock, job=job, recipe=recipe)
        ids = order_of(shards).at(positions.reshape(-1)).reshape(positions.shape)  # a restart remembers nothing
        for step, samples in enumerate(ids, start=clock.step):
            found = fingerprint(samples)
            assert redone.setdefault(step, found) == found, "the next group makes a lost step of the same samples"
        taken.append(ids[: group.steps].reshape(-1))
        clock = Clock(images=clock.images + group.steps * STEP_IMAGES, step=clock.step + group.steps)
    used, num_samples = np.concatenate(taken), int(shards.sum())
    assert clock.images > num_samples, "an epoch and the beginning of the next one"
    assert (np.bincount(used[:num_samples], minlength=num_samples) == 1).all(), "each sample of each shard once"
    assert np.bincount(used[num_samples:]).max() == 1, "and none twice in the epoch under way"


def test_a_join_or_a_loss_is_planned_by_each_worker_in_little_more_than_a_sort_of_the_shards(
    shards: np.ndarray, job: JobSpec
) -> None:
    """All that a worker computes before its first batch: against numpy's sort of as many numbers, here and now."""
    recipe, clock = catalog.build(job.recipe, job.model), Clock(images=20 * STEP_IMAGES, step=20)

    def plan() -> None:
        mine = own_positions(recipe, clock, job=job, rank=4095, world_size=MOST_WORKERS)
        order_of(shards).ids(*next(mine))

    draws = np.random.default_rng(0).integers(0, 2**63, NUM_SHARDS)
    assert best_s(plan) < 3 * best_s(lambda: np.argsort(draws, kind="stable"))


def test_the_whole_cluster_is_planned_in_the_time_of_some_sorts(shards: np.ndarray, job: JobSpec) -> None:
    """The same for all 4,096 workers in one process, with every sample of the first step: no event takes longer."""
    recipe, clock = catalog.build(job.recipe, job.model), Clock(images=20 * STEP_IMAGES, step=20)

    def plan() -> None:
        order_of(shards).at(steps_of(Group(MOST_WORKERS, 1), clock, job=job, recipe=recipe)[0])

    draws = np.random.default_rng(0).integers(0, 2**63, NUM_SHARDS)
    assert best_s(plan) < 20 * best_s(lambda: np.argsort(draws, kind="stable"))


def best_s(act: Callable[[], object]) -> float:
    """Of the processor, which no other work on this machine adds to; the shortest of some times."""
    found = np.inf
    for _ in range(4):
        started_s = time.process_time()
        act()
        found = min(found, time.process_time() - started_s)
    return found
