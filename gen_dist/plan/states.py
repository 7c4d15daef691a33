"""What DeepSpeed keeps of one group on each GPU at each ZeRO stage, in bytes; as gen_dist/train/engines.py sets it up.

Read from DeepSpeed 0.19.8 and held against its real tensors by tests/contract/test_plan_truth.py. P parameters, N
workers, w bytes of a weight (4 in fp32, 2 in bf16), every number a sum over the group's parameters:

  stage  weights        gradients        fp32 masters, moments, average   staged
  0      w P            w P              4 P (bf16) + 8 P + 4 P           the all-reduce's copy, after the backward
  1      w P            w P              (4 + 8 + 4) P / N                a bucket while gradients come
  2      w P            w owned          (4 + 8 + 4) P / N                a bucket while gradients come
  3      w P / N + whole  w P / N        (4 + 8 + 4) P / N                a bucket, always; gathered weights

`owned`: parameters that touch this worker's partition, each whole. `whole`: parameters too small to be split.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

BUCKET_ELEMENTS = 500_000_000  # the most of train/engines.py, and of DeepSpeed's plain all-reduce
REUSED_ELEMENTS = 500_000_000  # stage 3 keeps what it needs again within max_reuse_distance: half of it, there and back
PREFETCHED_ELEMENTS = 50_000_000  # stage3_prefetch_bucket_size
FP32 = 4


@dataclass(frozen=True)
class States:
    """Bytes of one group on one GPU; with offload, `host` is in the machine's memory instead."""

    weights: int
    """All the time: weights and buffers."""
    optimizer: int
    """All the time: fp32 masters, Adam's moments, the moving average."""
    held_gradients: int
    """All the time: the gradient partition of stage 3."""
    held_staging: int
    """All the time: the bucket of stage 3."""
    gradients: int
    """From the first backward of a step to its end, at their most."""
    staging: int
    """While gradients come: the bucket of stages 1 and 2."""
    step: int
    """After the backward, when activations are gone: fp32 gradients, the copy that is all-reduced."""
    gathered: int = 0
    """In each phase that calls its networks: stage 3's weights, gathered."""
    host: int = 0
    """In the memory of the machine."""

    @property
    def persistent(self) -> int:
        """Held between two steps."""
        return self.weights + self.optimizer + self.held_gradients + self.held_staging


@dataclass(frozen=True)
class GroupSize:
    """What of a group decides its states."""

    parameters: tuple[int, ...]
    """Elements of each trained parameter, in the order of the networks."""
    fixed: int
    """Elements of buffers and of parameters that are not trained."""
    average: bool
    """Whether a moving average is kept."""

    @property
    def total(self) -> int:
        return sum(self.parameters)

    @property
    def bucket(self) -> int:
        """Elements that are reduced at once."""
        return min(BUCKET_ELEMENTS, self.total)


def group_states(
    size: GroupSize,
    *,
    stage: int,
    workers: int,
    precision: str,
    persistence_elements: int,
    offload: bool = False,
) -> States:
    """`stage` is the engine's own: see `arithmetic.engine_stage`. `offload`: of optimizer states, stages 1 to 3."""
    w = 2 if precision == "bf16" else 4
    if stage == 0:
        return _whole(size, w, workers)
    if stage == 3:
        return _all_split(size, w, workers, persistence_elements, offload)
    return _optimizer_split(size, w, workers, stage, offload)


def _whole(size: GroupSize, w: int, workers: int) -> States:
    masters = FP32 if w == 2 else 0
    copied = w * size.bucket if workers > 1 else 0
    return States(
        weights=w * (size.total + size.fixed),
        optimizer=(masters + _beside(size)) * size.total,
        held_gradients=0,
        held_staging=0,
        gradients=w * size.total,
        staging=0,
        step=max(masters * size.total, copied),
    )


def _optimizer_split(size: GroupSize, w: int, workers: int, stage: int, offload: bool) -> States:
    aligned = 2 * workers  # partitions begin at multiples of 2 elements: NCCL's alignment
    part = -(-size.total // aligned) * 2
    optimizer = (FP32 + _beside(size)) * part
    # with offload the partition's gradients go to the host one by one, through a buffer of the largest
    owned = max(size.parameters) if offload else _largest_owned(size.parameters, part)
    return States(
        weights=w * (part * workers + size.fixed),
        optimizer=0 if offload else optimizer,
        held_gradients=0,
        held_staging=w * max(size.parameters) if offload else 0,
        gradients=w * (size.total if stage == 1 else owned),
        staging=w * size.bucket,
        step=0 if offload else FP32 * part,
        host=optimizer + (FP32 + w) * part if offload else 0,
    )


def _all_split(size: GroupSize, w: int, workers: int, persistence_elements: int, offload: bool) -> States:
    part = sum(-(-numel // workers) for numel in size.parameters)
    kept_whole = sum(numel for numel in size.parameters if numel <= persistence_elements)
    optimizer = (FP32 + _beside(size)) * part
    gathered = min(size.total - kept_whole, REUSED_ELEMENTS + PREFETCHED_ELEMENTS)
    return States(
        weights=w * (part + kept_whole + size.fixed),
        optimizer=0 if offload else optimizer,
        held_gradients=0 if offload else w * part,
        held_staging=w * size.bucket,
        gradients=0,
        staging=0,
        step=0 if offload else FP32 * part,
        gathered=w * gathered,
        host=optimizer + (FP32 + w) * part if offload else 0,
    )


def _beside(size: GroupSize) -> int:
    """Bytes of a parameter beside its weight: two moments, and the average where there is one."""
    return 2 * FP32 + (FP32 if size.average else 0)


def _largest_owned(parameters: Sequence[int], part: int) -> int:
    """Elements of the parameters that touch a partition of `part` elements, for the worker that has the most."""
    ends = list(itertools.accumulate(parameters))
    most = 0
    first = 0
    for start in range(0, ends[-1], part):
        while ends[first] <= start:
            first += 1
        last = first
        while ends[last] < min(start + part, ends[-1]):
            last += 1
        most = max(most, ends[last] - (ends[first] - parameters[first]))
    return most
