"""When a group is resized: for room that stays, to a number of workers that splits the batch, and never with a machine
that does not answer.
"""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision

from gen_dist.job import arithmetic
from gen_dist.job.load import load_job
from gen_dist.train.elastic import Elastic, Settled, silent


@pytest.mark.parametrize(
    ("seen", "resized"),
    [
        ([None, None, None], []),
        ([2, 2], [1]),
        ([2, 3, 4, 4], [3]),  # machines that join one by one: one restart, with all of them
        ([2, None, 2, None], []),  # one that comes and goes: none
        ([2, 2, 2, 2], [1, 3]),  # the resize did not come about: once more
    ],
)
def test_a_group_is_resized_for_room_that_two_looks_have_found(seen: list[int | None], resized: list[int]) -> None:
    settled = Settled()
    assert [place for place, found in enumerate(seen) if settled.see(found)] == resized


def test_machines_that_nobody_answers_for_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        places = [server.getsockname() for server in (one, other)]
        assert silent(places) == 0
        other.close()
        assert silent(places) == 1
        assert silent(places * 40) == 40, "more than are knocked at together"
    assert silent([]) == 0


class Cluster(Elastic):
    """With a cluster of so many CPUs, two a machine."""

    cpus = 0

    def _maybe_send_resource_request(self) -> None:
        pass

    def _get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return {f"machine-{first}": {"CPU": min(2.0, self.cpus - first)} for first in range(0, self.cpus, 2)}


def policy(sizes: tuple[int, ...]) -> Cluster:
    config = ScalingConfig(
        num_workers=(sizes[0], sizes[-1]), resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=0
    )
    return Cluster(config, sizes)


@pytest.mark.parametrize(("room", "started"), [(0, None), (1, None), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (30, 8)])
def test_a_group_starts_with_the_largest_number_of_workers_that_works(room: int, started: int | None) -> None:
    cluster = policy((2, 4, 8))
    cluster.cpus = room
    decision = cluster.make_decision_for_non_running_worker_group()
    found = decision.num_workers if isinstance(decision, ResizeDecision) else None
    assert found == started


@pytest.mark.parametrize(
    ("running", "room", "resized"),
    [(4, 5, None), (4, 7, None), (4, 8, 8), (8, 7, 4), (4, 3, 2), (2, 3, None), (4, 1, None), (8, 12, None)],
)
def test_a_group_that_runs_grows_and_shrinks_by_numbers_that_work(running: int, room: int, resized: int | None) -> None:
    cluster = policy((2, 4, 8))
    cluster.cpus = room
    state = SimpleNamespace(start_time=0.0, num_workers=running)
    for _ in range(2):  # two looks in a row
        decision = cluster.make_decision_for_running_worker_group(state, None)
    assert (None if isinstance(decision, NoopDecision) else decision.num_workers) == resized


@pytest.mark.parametrize(
    ("job", "asked", "sizes"),
    [
        ("gigagan/base-64", [8, 16], (8, 16)),
        ("gigagan/base-64", [32, 64], (32, 64)),
        ("latent-diffusion/large-256", [2, 8], (2, 4, 8)),
        ("quickstart", [2, 8], (2,)),
        ("smoke/ddpm", [2, 8], (2, 4)),
    ],
)
def test_a_job_of_the_repository_takes_a_range_of_workers(job: str, asked: list[int], sizes: tuple[int, ...]) -> None:
    found = load_job(f"jobs/{job}.toml", [f"cluster.num_workers={asked}"], looks_at_data=False)
    assert arithmetic.world_sizes(found) == sizes
