"""The machines of a Ray cluster as places: a process of ours on each, with the environment that workers get there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gen_dist.cluster.checks.room import Node
from gen_dist.job.spec import JobSpec
from gen_dist.train.launch import ray_for

LETTERS = 6  # of a node's id
MOST_CALLS = 16  # of one machine at a time: one that hangs keeps no other


@contextmanager
def connected(job: JobSpec) -> Iterator[list[Node]]:
    """The machines of the cluster at `cluster.address`. Raises: ClusterError, within seconds where nobody answers."""
    with ray_for(job):
        yield _nodes()


class _Seat:
    """An actor that runs what it is handed."""

    def call(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        return function(*arguments)


@dataclass(frozen=True)
class Seat:
    """A `Place` on one machine of the cluster. It takes no CPU of it."""

    name: str
    host: str
    actor: Any

    @classmethod
    def on(cls, node: Node, host: str) -> Seat:
        """Begins to start it."""
        pinned = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        kind = ray.remote(num_cpus=0, max_concurrency=MOST_CALLS, scheduling_strategy=pinned)(_Seat)
        return cls(node.name, host, kind.remote())

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """See `Place`."""
        answer: Future[Any] = self.actor.call.remote(function, arguments).future()
        return answer


def host_of(node: Node) -> str:
    """The address at which the others reach a machine."""
    return node.name.partition(" ")[0]


def _nodes() -> list[Node]:
    """Alive ones; those at one address are told apart by their ids."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    often = Counter(node["NodeManagerAddress"] for node in alive)
    free = {} if ray.util.client.ray.is_connected() else ray._private.state.available_resources_per_node()
    nodes = []
    for node in alive:
        address, number = node["NodeManagerAddress"], node["NodeID"]
        name = address if often[address] == 1 else f"{address} ({number[:LETTERS]})"
        nodes.append(Node(name, number, node["Resources"], free.get(number, node["Resources"])))
    return sorted(nodes, key=lambda node: node.name)
