"""A run that waits for its workers: Ray asks for them again and again without a word. This says so, and gives up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.placement_group import placement_group_table

from gen_dist.job import arithmetic
from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import JobSpec
from gen_dist.train.report import Event

LOOK_EVERY_S = 2.0
QUIET_S = 5.0  # workers that were heard of since need no place
FIRST_ALERT_S = 30.0
SLOW_START_S = 120.0  # a busy machine with room for the workers takes this long until Ray has come up
LONGEST_BETWEEN_ALERTS_S = 1800.0


class CapacityError(GenDistError):
    """A cluster without room for the workers."""


class Waiting:
    """When to say that there is no room: after 30 s, then after twice as long each time. Pure."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._next_s = FIRST_ALERT_S

    def see(self, *, placed: bool, now_s: float) -> tuple[float, bool]:
        """How long there has been no room, and whether to say so now."""
        if placed:
            self._since_s, self._next_s = None, FIRST_ALERT_S
            return 0.0, False
        if self._since_s is None:
            self._since_s = now_s
        for_s = now_s - self._since_s
        if for_s < self._next_s:
            return for_s, False
        self._next_s = for_s + min(for_s, LONGEST_BETWEEN_ALERTS_S)
        return for_s, True


def without_gpus(job: JobSpec) -> str:
    """What to say at once where workers want GPUs and the cluster has none yet; empty where it has."""
    if not job.cluster.use_gpu or ray.cluster_resources().get("GPU", 0.0):
        return ""
    return (
        "cluster.use_gpu=true, and the cluster has no machine with a GPU now; the run waits for one up to"
        f" run.max_wait_s = {job.run.max_wait_s:g} (`gen-dist doctor` says what its machines have)"
    )


class Capacity:
    """Looks at the cluster for the driver."""

    def __init__(self, job: JobSpec) -> None:
        self._job = job
        self._waiting = Waiting()
        self._looked_s = time.monotonic()

    def check(self, quiet_s: float) -> Event | None:
        """An alert, where one is due. `quiet_s`: since a worker was last heard of. Raises: CapacityError."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return None
        self._looked_s = now_s
        if quiet_s < QUIET_S:
            self._waiting.see(placed=True, now_s=now_s)
            return None
        if quiet_s > self._job.run.max_wait_s:
            raise CapacityError(self._text(quiet_s) + f"; {self._remedy()}")
        for_s, alert = self._waiting.see(placed=_placed(), now_s=now_s)
        if not alert or (for_s < SLOW_START_S and self._fits()):
            return None
        text = f"{self._text(for_s)}; the run waits, and gives up after run.max_wait_s = {self._job.run.max_wait_s:g}"
        return {"kind": "waiting", "at_s": time.time(), "by": "hub", "for_s": round(for_s, 1), "text": text}

    def _text(self, for_s: float) -> str:
        if _placed():
            return f"no worker has started for {for_s:.0f} s, though the cluster has room for them"
        asked = self._asked()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        what = "Ray has not placed the workers yet, after" if self._fits() else "no room for the workers for"
        return (
            f"{what} {for_s:.0f} s: {arithmetic.world_sizes(self._job)[0]} x {_listed(asked)} asked, the cluster has"
            f" {len(nodes)} node(s) with {_listed(ray.cluster_resources())}, of it free"
            f" {_listed(ray.available_resources())}"
        )

    def _fits(self) -> bool:
        """Whether the smallest number of workers would find room."""
        free, smallest = ray.available_resources(), arithmetic.world_sizes(self._job)[0]
        return all(free.get(name, 0.0) >= smallest * count for name, count in self._asked().items())

    def _asked(self) -> dict[str, float]:
        """Of each worker."""
        return {"CPU": self._job.cluster.cpus_per_worker, **({"GPU": 1} if self._job.cluster.use_gpu else {})}

    def _remedy(self) -> str:
        if _placed():
            return "see why they do not start with `ray logs`, or raise run.max_wait_s, and run the same command again"
        return (
            "add machines, end what else runs there, or lower cluster.num_workers or cluster.cpus_per_worker, and run"
            " the same command again"
        )


def _listed(resources: Mapping[str, float]) -> str:
    """CPUs and GPUs, without what Ray keeps for itself."""
    return " ".join(f"{resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU") if name in resources) or "0 CPU"


def _placed() -> bool:
    """Whether the cluster has given the workers of this driver their place."""
    job_id = ray.get_runtime_context().get_job_id()
    table: dict[str, dict[str, Any]] = placement_group_table()
    return any(place["state"] == "CREATED" for place_id, place in table.items() if place_id.endswith(job_id))
