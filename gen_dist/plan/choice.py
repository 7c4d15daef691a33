"""The configuration to take, and why; or that nothing fits, what is nearest to it, and what would help."""

from __future__ import annotations

from collections.abc import Sequence

from gen_dist.plan.configuration import Outcome
from gen_dist.plan.errors import PlanError
from gen_dist.plan.gpus import GPUS, Gpu

AS_FAST = 1.02  # times within this factor are no reason to choose: the plan is not as exact
GB = 1e9


def recommended(outcomes: Sequence[Outcome], gpu: Gpu, *, workers: int) -> tuple[Outcome, str]:
    """The fastest that fits; of those as fast, the one that leaves most memory free. Raises: PlanError.

    Offload is shown and not recommended: a job has no key for it.
    """
    askable = [outcome for outcome in outcomes if not outcome.configuration.offload]
    fitting = [outcome for outcome in askable if outcome.fits]
    if not fitting:
        raise PlanError(_nothing_fits(outcomes, gpu, workers=workers))
    # what stage 3's hooks take around every module is not in its time: it is for what fits in no other way
    fitting = [outcome for outcome in fitting if 3 not in outcome.configuration.stages.values()] or fitting
    fastest = min(outcome.run_s for outcome in fitting)
    best = min(
        (outcome for outcome in fitting if outcome.run_s <= AS_FAST * fastest), key=lambda found: found.memory.total
    )
    return best, _why(best, askable, gpu)


def _why(best: Outcome, askable: Sequence[Outcome], gpu: Gpu) -> str:
    free = 1.0 - best.memory.total / gpu.memory_bytes
    reasons = [f"fits with {free:.0%} of the memory free"]
    for other in askable:
        name = other.configuration.name
        if other is best:
            continue
        if not other.fits:
            reasons.append(f"{name} does not fit ({(other.memory.total - gpu.memory_bytes) / GB:.1f} GB too much)")
        elif other.run_s > AS_FAST * best.run_s:
            reasons.append(f"{name} is {other.run_s / best.run_s - 1:.0%} slower")
        elif 3 in other.configuration.stages.values():
            reasons.append(f"{name} is for what fits in no other way")
        else:
            reasons.append(f"{name} is as fast and takes {other.memory.total / GB:.1f} GB")
    return "; ".join(reasons)


def _nothing_fits(outcomes: Sequence[Outcome], gpu: Gpu, *, workers: int) -> str:
    nearest = min(
        (outcome for outcome in outcomes if not outcome.configuration.offload),
        key=lambda found: found.memory.total,
    )
    memory, name = nearest.memory, nearest.configuration.name
    parts = {
        part: getattr(memory, part)
        for part in ("weights", "gradients", "optimizer", "activations", "batch", "buffers", "margin")
    }
    largest = max(parts, key=parts.__getitem__)
    what = (
        f"nothing fits on {workers} x {gpu.name} with {gpu.memory_bytes / GB:.0f} GB: nearest is {name} at"
        f" train.micro_batch_images={nearest.configuration.micro_batch_images} with {memory.total / GB:.1f} GB,"
        f" {parts[largest] / memory.total:.0%} of it {largest}"
    )
    enough = [other for other in GPUS.values() if other.memory_bytes >= memory.total]
    remedies = {
        "activations": "lower model.image_px or the widths under [model]",
        "batch": "take more workers, or a smaller train.global_batch_images",
        "buffers": "lower the widths under [model]",
    }
    remedy = remedies.get(largest, "take more workers, which share what ZeRO splits, or lower the widths under [model]")
    if enough:
        return f"{what}; write --gpu {min(enough, key=lambda other: other.memory_bytes).name}, or {remedy}"
    return f"{what}; {remedy}"
