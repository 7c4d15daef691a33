"""How long a step takes: computing, the optimizer, communicating, one after the other; and with it the run.

A phase computes as long as the slowest of three bounds says: its FLOPs at a share of the GPU's peak (the MFU), the
bytes of its kernels at the memory's speed, or its kernels at one launch each. Nothing is taken to overlap: what
does overlap makes a run faster than its plan. Starting, sample grids, checkpoints and restarts are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gen_dist.plan.census import StepKind
from gen_dist.plan.gpus import Gpu
from gen_dist.plan.states import GroupSize, States
from gen_dist.plan.trace import PhaseCost
from gen_dist.plan.traffic import NOTHING, Traffic, backward_traffic, duration_s, gather_traffic, step_traffic

MFU = {"bf16": 0.3, "fp32": 0.5}  # of plain, uncompiled PyTorch on networks of convolutions and attention: assumed
MEMORY_SHARE = 0.8  # of the memory's speed that kernels reach: assumed
LAUNCH_S = 5e-6  # from one kernel to the next in a program that does not capture graphs: assumed
UPDATED_BYTES = 44  # read and written of a parameter by AdamW in fp32 (28), the average (12), the weight's copy (4)
HOST_MEMORY_BYTES_PER_S = 20e9  # of one worker, where the optimizer is on the host: assumed
LINK_TO_HOST_SHARE = 0.8  # of its speed: assumed


@dataclass(frozen=True)
class Setting:
    """What decides the times of a plan besides the recipe."""

    gpu: Gpu
    workers: int
    precision: str
    persistence_elements: int
    mfu: Mapping[str, float]
    """Share of the GPU's peak that is reached, by precision."""
    correction: float = 1.0
    """Of computing, from a measured speed."""


@dataclass(frozen=True)
class PhaseTime:
    """One phase of one step on every worker, in seconds."""

    name: str
    compute_s: float
    bound: str
    """What `compute_s` is bound by: FLOPs, memory or kernel launches."""
    optimizer_s: float
    communication_s: float
    sent_bytes: float
    """By one GPU."""

    @property
    def total_s(self) -> float:
        return self.compute_s + self.optimizer_s + self.communication_s


def compute_s(cost: PhaseCost, setting: Setting) -> tuple[float, str]:
    """One micro-batch, forward and backward; and what bounds it."""
    gpu = setting.gpu
    bounds = {
        "FLOPs": cost.flops / (setting.mfu[cost.precision] * gpu.flops_per_s(cost.precision)),
        "memory": cost.moved_bytes / (MEMORY_SHARE * gpu.memory_bytes_per_s),
        "launches": cost.num_kernels * LAUNCH_S,
    }
    bound = max(bounds, key=bounds.__getitem__)
    return setting.correction * bounds[bound], bound


def phase_time(
    cost: PhaseCost,
    setting: Setting,
    *,
    stages: Mapping[str, int],
    sizes: Mapping[str, GroupSize],
    net_groups: Mapping[str, str],
    net_sizes: Mapping[str, GroupSize],
    states: Mapping[str, States],
    accumulation: int,
) -> PhaseTime:
    """`accumulation` micro-batches, and the optimizer's step where the phase ends in one."""
    group, size = cost.group, sizes[cost.group]
    common = {"workers": setting.workers, "precision": setting.precision}
    kept = setting.persistence_elements
    each = backward_traffic(size, stage=stages[group], **common)  # type: ignore[arg-type]
    for net, calls in cost.calls.items():
        if stages[net_groups[net]] == 3:
            each += gather_traffic(net_sizes[net], persistence_elements=kept, **common) * calls  # type: ignore[arg-type]
    after = NOTHING
    if cost.steps:
        after = step_traffic(size, stage=stages[group], persistence_elements=kept, **common)  # type: ignore[arg-type]
    sent: Traffic = each * accumulation + after
    once_s, bound = compute_s(cost, setting)
    return PhaseTime(
        cost.name,
        compute_s=once_s * accumulation,
        bound=bound,
        optimizer_s=_optimizer_s(size, states[group], stages[group], setting) if cost.steps else 0.0,
        communication_s=duration_s(sent, setting.gpu, setting.workers),
        sent_bytes=sent.sent_bytes,
    )


def _optimizer_s(size: GroupSize, state: States, stage: int, setting: Setting) -> float:
    part = size.total / (setting.workers if stage else 1)
    if not state.host:
        return part * UPDATED_BYTES / (MEMORY_SHARE * setting.gpu.memory_bytes_per_s)
    width = 2 if setting.precision == "bf16" else 4
    moved_s = 2 * width * part / (LINK_TO_HOST_SHARE * setting.gpu.host_bytes_per_s)  # gradients there, weights back
    return moved_s + part * UPDATED_BYTES / HOST_MEMORY_BYTES_PER_S


def in_words(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, each_s in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * each_s:
            return f"{seconds / each_s:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def run_s(kinds: Sequence[StepKind], times: Mapping[str, PhaseTime]) -> float:
    """All steps of the run."""
    return sum(kind.num_steps * sum(times[name].total_s for name in kind.phases) for kind in kinds)
