"""Is there room: CPUs and GPUs for the workers, disks for what a run leaves, shared memory for what it hands around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gen_dist.cluster.checks.finding import Finding, grouped, named, note, ok, wrong
from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.train.footprint import SESSION_BYTES, disk_needs, disk_short, mebibytes
from gen_dist.train.preflight import shared_memory_short

WORKERS, DISK, SHARED_MEMORY = "workers", "disk", "shared memory"


@dataclass(frozen=True)
class Node:
    """A machine of a Ray cluster, as Ray counts it."""

    name: str
    node_id: str
    total: Mapping[str, float]
    free: Mapping[str, float]


def wanted(job: JobSpec) -> dict[str, float]:
    """What each worker asks of its machine."""
    return {"CPU": job.cluster.cpus_per_worker, **({"GPU": 1.0} if job.cluster.use_gpu else {})}


def places(resources: Mapping[str, float], each: Mapping[str, float]) -> int:
    """Workers that fit on one machine."""
    return min(int((resources.get(name, 0.0) + 1e-9) // amount) for name, amount in each.items())


def hosts(nodes: Sequence[Node], job: JobSpec) -> list[Node]:
    """Machines that may hold a worker: a head is often kept free of them."""
    each = wanted(job)
    return [node for node in nodes if places(node.total, each)]


def judge_workers(job: JobSpec, nodes: Sequence[Node]) -> Finding:
    """Whether the smallest number of workers fits on the cluster, and whether it does so now."""
    each, sizes = wanted(job), arithmetic.world_sizes(job)
    total = sum(places(node.total, each) for node in nodes)
    free = sum(places(node.free, each) for node in nodes)
    asked = " ".join(f"{amount:g} {name}" for name, amount in each.items())
    amount = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    where = named([node.name for node in nodes])
    seen = f"{amount} workers of {asked} asked; {where} have room for {total}, {free} now"
    measured = {"places": total, "free_places": free, "asked": [sizes[0], sizes[-1]]}
    if total < sizes[0]:
        remedy = "add machines, or lower cluster.num_workers or cluster.cpus_per_worker (an autoscaler may add them)"
        return wrong(WORKERS, f"{seen}; {remedy}", **measured)
    if free < sizes[0]:
        return note(WORKERS, f"{seen}; a run waits until what else runs there ends", **measured)
    return ok(WORKERS, seen, **measured)


def judge_workers_here(job: JobSpec, cpus: int) -> Finding:
    """A Ray of this machine alone takes any number of workers; more than it has CPUs for take turns."""
    most, each = arithmetic.world_sizes(job)[0], job.cluster.cpus_per_worker
    seen = f"{most} worker(s) of {each:g} CPU on this machine with {cpus}"
    if most * each > cpus:
        remedy = "lower cluster.num_workers or cluster.cpus_per_worker, or name a cluster as cluster.address"
        return note(WORKERS, f"{seen}: they will wait for each other; {remedy}", cpus=cpus)
    return ok(WORKERS, seen, cpus=cpus)


def gradient_bytes(job: JobSpec, parameters: int) -> int:
    """What each worker reduces with the others in one step."""
    return parameters * (2 if job.train.precision == "bf16" else 4)


def judge_disks(needs: Mapping[str, int], machines: Mapping[str, Mapping[str, Any]]) -> Finding:
    """`needs`: bytes by folder; `machines`: facts of `machine.look`. What lies on one disk is added up."""
    texts: dict[str, str] = {}
    least: dict[str, float] = {"free_bytes": float("inf"), "wanted_bytes": 0.0}
    for machine, facts in machines.items():
        session = {facts["ray_folder"]: needs.get(facts["ray_folder"], 0) + SESSION_BYTES}
        for free_bytes, num_bytes, folders in disk_needs({**needs, **session}, facts["disks"]):
            if short := disk_short(free_bytes, num_bytes, folders):
                texts[machine] = short
            if free_bytes - num_bytes < least["free_bytes"] - least["wanted_bytes"]:
                least = {"free_bytes": free_bytes, "wanted_bytes": num_bytes}
    if texts:
        return grouped(DISK, texts)
    seen = f"{mebibytes(least['free_bytes'])} free where {mebibytes(least['wanted_bytes'])} are wanted"
    return ok(DISK, seen + (", the least of all machines" if len(machines) > 1 else ""), **least)


def judge_shared_memory(job: JobSpec, machines: Mapping[str, Mapping[str, Any]], *, local: bool) -> Finding:
    """On each machine that may hold workers."""
    short = {
        machine: text
        for machine, facts in machines.items()
        if (text := shared_memory_short(job, free_bytes=facts["shared_memory_bytes"], local=local))
    }
    if short:
        return grouped(SHARED_MEMORY, short)
    known = [facts["shared_memory_bytes"] for facts in machines.values() if facts["shared_memory_bytes"] is not None]
    if not known:
        return ok(SHARED_MEMORY, "this system has none to run out of")
    return ok(SHARED_MEMORY, f"{mebibytes(min(known))} free", free_bytes=min(known))
