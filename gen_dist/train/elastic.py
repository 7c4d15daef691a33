"""When a group of `cluster.num_workers = [min, max]` grows and shrinks: Ray's policy, asked of the cluster as it is.

Ray's own takes as many workers as there is room for. Here a group has a number of workers that splits the job's batch:
the largest such number that there is room for.

Ray's own looks at the cluster every 20 s, and at what it saw then every 60 s: a machine that joins stands idle for up
to 80 s, and after a loss the group is started with the lost machine once more, which takes a time limit of 30 s to
fail. Here the cluster is looked at whenever something is to be decided. What raises there would end the run: nothing
does.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

LOOK_EVERY_S = 10.0
"""While a group trains. It grows when two looks in a row find the same room: machines that join together cost one
restart and not one each."""
ASK_S = 5.0  # for the cluster to answer
KNOCK_S = 1.0  # for a machine to answer
LONGEST_UNSURE_S = 30.0  # a machine that answers nobody, and that the cluster still counts as alive, is not waited for
KNOCKS = 32  # at a time

log = logging.getLogger(__name__)


class Settled:
    """Lets a change through that has been there twice in a row. Pure."""

    def __init__(self) -> None:
        self._seen: int | None = None

    def see(self, num_workers: int | None) -> bool:
        """Whether this number, None for no change, was what the last look found too."""
        same = num_workers is not None and num_workers == self._seen
        self._seen = None if same else num_workers
        return same


def largest_up_to(room: int, sizes: Collection[int]) -> int:
    """The largest of `sizes` that fits into room for so many workers; 0 where none does. Pure."""
    return max((size for size in sizes if size <= room), default=0)


class Elastic(ElasticScalingPolicy):  # type: ignore[misc]  # Ray is not typed
    """As many workers as fit, of the numbers that the job may run on."""

    def __init__(self, scaling_config: ScalingConfig, sizes: Sequence[int]) -> None:
        """`sizes`: those numbers, from `min_workers` to `max_workers` of the configuration."""
        super().__init__(scaling_config)
        self._sizes = tuple(sizes)
        self._settled = Settled()
        self._unsure_since_s: float | None = None

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """A resize once the cluster has room for another number of workers, and stays so."""
        looked_s = self._latest_monitor_time
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if self._latest_monitor_time == looked_s:
            return decision
        wanted = decision.num_workers if isinstance(decision, ResizeDecision) else None
        return decision if self._settled.see(wanted) else NoopDecision()

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """A start, once it is certain which machines are there."""
        return NoopDecision() if self._is_unsure() else super().make_decision_for_non_running_worker_group()

    def _count_possible_workers(self, reserved_resources: Mapping[str, Mapping[str, float]]) -> int:
        """What both decisions go by; below the fewest workers where there is no room for these, so that they wait."""
        return largest_up_to(super()._count_possible_workers(reserved_resources), self._sizes)

    def _is_unsure(self) -> bool:
        """Whether the cluster counts a machine as alive that does not answer, and for not too long."""
        now_s = time.monotonic()
        if not silent(_alive()):
            self._unsure_since_s = None
            return False
        if self._unsure_since_s is None:
            self._unsure_since_s = now_s
        return now_s - self._unsure_since_s < LONGEST_UNSURE_S

    def _get_reserved_resources(self) -> Mapping[str, Mapping[str, float]] | None:
        """What each machine has for this run, but for machines that are about to be taken away."""
        try:
            asked = self._autoscaling_coordinator.get_reserved_resources.remote(self._requester_id, recompute=True)
            reserved = ray.get(asked, timeout=ASK_S)
            going = ray._private.state.state.get_draining_nodes()
        except Exception:
            log.warning("event=cluster_unknown", exc_info=True)
            return None
        return {node: room for node, room in reserved.items() if node not in going}


def _alive() -> list[tuple[str, int]]:
    """Where the machines listen that the cluster counts as alive; none where it does not answer."""
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
    except Exception:  # noqa: BLE001  the decision that follows will see
        return []
    return [(node["NodeManagerAddress"], node["NodeManagerPort"]) for node in nodes]


def silent(places: Collection[tuple[str, int]]) -> int:
    """At how many of them, (address, port), nobody answers."""
    if not places:
        return 0
    with ThreadPoolExecutor(min(KNOCKS, len(places))) as threads:
        return sum(not answered for answered in threads.map(_answers, places))


def _answers(place: tuple[str, int]) -> bool:
    try:
        socket.create_connection(place, timeout=KNOCK_S).close()
    except OSError:
        return False
    return True
