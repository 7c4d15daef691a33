"""Before a job is sent: the cheap part of a preflight as this machine can see it, beside what the cluster tells.

What would be so for every machine stops the job here. What may be this machine's own, such as a key or a network that
the cluster has and a laptop has not, is a note: the run looks again there before it takes a worker.
"""

from __future__ import annotations

from collections.abc import Sequence

from gen_dist.cluster.checks.places import Asked, Here, LateError
from gen_dist.cluster.checks.room import Node, places, wanted
from gen_dist.cluster.errors import JobsError
from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.train.preflight import CHEAP, Look

LOOK_S = 10.0


def look_from_here(job: JobSpec, looks: Sequence[Look] = CHEAP, *, limit_s: float = LOOK_S) -> list[str]:
    """Notes, a line each, after `limit_s` at the latest. Raises: JobsError for what ends the run on any machine."""
    asked = {look.name: look for look in looks if look.is_remote(job)}
    _, failed = Asked({name: Here().call(look.see, job) for name, look in asked.items()}, limit_s).wait()
    for name, error in failed.items():
        if asked[name].ends and asked[name].holds_anywhere(job, error):
            raise JobsError(f"{job.name}: {_line(error)}; nothing was sent")
    return [
        f"{name}, seen from this machine: {_late(asked[name], job) if isinstance(error, LateError) else _line(error)}."
        " The cluster has its own keys and network, and the run looks again there before it takes a worker"
        for name, error in failed.items()
    ]


def room_for(job: JobSpec, nodes: Sequence[Node]) -> str:
    """What to say where the machines that are there now have no room for the workers; empty where they have."""
    each, smallest = wanted(job), arithmetic.world_sizes(job)[0]
    total = sum(places(node.total, each) for node in nodes)
    if total >= smallest:
        return ""
    asked = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
    no_gpu = job.cluster.use_gpu and not any(node.total.get("GPU") for node in nodes)
    without = ", or set cluster.use_gpu=false" if no_gpu else ""
    return (
        f"{smallest} worker(s) of {asked} asked, and the {len(nodes)} machine(s) of the cluster have room for {total};"
        f" the run waits for more up to run.max_wait_s = {job.run.max_wait_s:g}: add machines, unless an autoscaler"
        f" does, or lower cluster.num_workers or cluster.cpus_per_worker{without}"
    )


def _late(look: Look, job: JobSpec) -> str:
    url, s3 = look.place(job)
    return f"{url}{f' at {s3.endpoint_url}' if s3 is not None and s3.endpoint_url else ''}: no answer in time"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
