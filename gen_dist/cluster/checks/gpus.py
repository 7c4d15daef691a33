"""Does every worker find a GPU that works: what torch sees and computes, and what the driver counts of errors.

A process of its own looks, which sees all GPUs of its machine: Ray hides those that nobody asked for, and a GPU that
hangs holds whoever touches it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gen_dist.cluster.checks.finding import Finding, at, grouped, named, note, ok, wrong
from gen_dist.cluster.checks.places import LateError, ProcessError, ask_process
from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.train.footprint import mebibytes

CHECK = "gpus"
TRIAL = "gen_dist.cluster.checks.try_gpus"
LIMIT_S = 30.0
NO_DRIVER = "install the NVIDIA driver, or start the container with its GPUs (--gpus all, nvidia.com/gpu), or set"
REPLACE = "drain the machine, reset or replace the GPU"


def look() -> dict[str, Any]:
    """What this machine has. Raises: LateError, ProcessError."""
    return ask_process(TRIAL, {}, limit_s=LIMIT_S, env={"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": ""})


def judge(job: JobSpec, found: Mapping[str, Mapping[str, Any]], failed: Mapping[str, BaseException]) -> Finding:
    """What `look` gave, by machine that may hold a worker."""
    if not job.cluster.use_gpu:
        return ok(CHECK, "not asked for (cluster.use_gpu = false)")
    counts = {machine: len(facts["devices"]) for machine, facts in found.items()}
    texts = {machine: _failure(error) for machine, error in failed.items()}
    texts |= {machine: trouble for machine, facts in found.items() if (trouble := _trouble(facts))}
    smallest, total = arithmetic.world_sizes(job)[0], sum(counts.values())
    if not total:
        why = next(iter(texts.values()), "torch sees no GPU")
        return wrong(CHECK, f"{at(list(found))}{why}; {NO_DRIVER} cluster.use_gpu = false", devices=0)
    if texts:
        return grouped(CHECK, texts)
    kinds = sorted({device["name"] for facts in found.values() for device in facts["devices"]})
    measured = {"devices": total, "names": kinds, "by_machine": counts}
    if total < smallest:
        what = f"{total} GPUs for {smallest} workers; add machines, or lower cluster.num_workers"
        return wrong(CHECK, what, **measured)
    memory = min(device["memory_bytes"] for facts in found.values() for device in facts["devices"])
    told = f"{total} x {' and '.join(kinds)}, at least {mebibytes(memory)} each, computing right"
    notes = {machine: facts["notes"] for machine, facts in found.items() if facts["notes"]}
    if notes:
        return note(CHECK, f"{told}; {at(list(notes))}{next(iter(notes.values()))[0]}; {REPLACE}", **measured)
    if len(kinds) > 1:
        return note(CHECK, f"{told}; all workers go at the pace of the slowest one", **measured)
    return ok(CHECK, told, **measured)


def none_may_work(machines: Mapping[str, Any]) -> Finding:
    """No machine of the cluster offers a GPU to Ray."""
    where = named(list(machines))
    what = f"Ray knows of no GPU ({where}), and cluster.use_gpu = true"
    return wrong(CHECK, f"{what}; {NO_DRIVER} cluster.use_gpu = false", devices=0)


def _trouble(facts: Mapping[str, Any]) -> str:
    """Why workers cannot use what is there."""
    bad = [f"GPU {device['index']}: {device['error']}; {REPLACE}" for device in facts["devices"] if device["error"]]
    bad += [f"{line}; {REPLACE}" for line in facts["broken"]]
    if not bad and not facts["devices"]:
        return str(facts["why"])
    return bad[0] if bad else ""


def _failure(error: BaseException) -> str:
    what = "a GPU that hangs" if isinstance(error, LateError) else "torch cannot look at its GPUs"
    detail = str(error) if isinstance(error, LateError | ProcessError) else f"{error}"
    return f"{what} ({detail}); see `nvidia-smi` there"
