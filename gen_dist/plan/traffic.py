"""What one group sends over the links in a step at each ZeRO stage, and how long that takes.

Volumes are those of ring algorithms over N workers: an all-reduce sends 2 (N - 1) / N of what it reduces, a
reduce-scatter or an all-gather (N - 1) / N (Rajbhandari et al. 2020, "ZeRO", section 7). DeepSpeed's stages 1 and 2
reduce whole buckets by all-reduce (`use_multi_rank_bucket_allreduce`) and throw the rest away, so they send as much as
stage 0, and gather the weights after the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gen_dist.plan.gpus import Gpu
from gen_dist.plan.states import BUCKET_ELEMENTS, REUSED_ELEMENTS, GroupSize

LINK_SHARE = 0.8  # of a link's speed that collectives reach: assumed
LATENCY_S = 20e-6  # of one collective call within a node, and again for each doubling of the nodes: assumed


@dataclass(frozen=True)
class Traffic:
    """Of one GPU."""

    sent_bytes: float
    calls: float
    """Collective calls, each with its latency."""

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.sent_bytes + other.sent_bytes, self.calls + other.calls)

    def __mul__(self, times: float) -> Traffic:
        return Traffic(self.sent_bytes * times, self.calls * times)


NOTHING = Traffic(0.0, 0.0)


def backward_traffic(size: GroupSize, *, stage: int, workers: int, precision: str) -> Traffic:
    """Of the gradients after each backward (stages 2 and 3)."""
    if workers == 1 or stage < 2:
        return NOTHING
    share, w = (workers - 1) / workers, _width(precision)
    buckets = math.ceil(size.total / BUCKET_ELEMENTS)
    return Traffic((2 if stage == 2 else 1) * share * w * size.total, buckets)


def gather_traffic(size: GroupSize, *, workers: int, precision: str, persistence_elements: int) -> Traffic:
    """Of one call of networks at stage 3: their weights, and those again that the backward has to ask for."""
    split = [numel for numel in size.parameters if numel > persistence_elements]
    if workers == 1 or not split:
        return NOTHING
    share, w, total = (workers - 1) / workers, _width(precision), sum(split)
    again = max(0, total - REUSED_ELEMENTS)
    return Traffic(share * w * (total + again), len(split) * (1 + again / total))


def step_traffic(size: GroupSize, *, stage: int, workers: int, precision: str, persistence_elements: int) -> Traffic:
    """Of the gradients before the optimizer's step (stages 0 and 1), and of the weights after it (all but 0)."""
    if workers == 1:
        return NOTHING
    share, w = (workers - 1) / workers, _width(precision)
    buckets = math.ceil(size.total / BUCKET_ELEMENTS)
    reduced = Traffic(2 * share * w * size.total, buckets) if stage < 2 else NOTHING
    if stage == 3:  # those that stay whole; the others wait until they are needed
        whole = sum(numel for numel in size.parameters if numel <= persistence_elements)
        return Traffic(share * w * whole, 1) if whole else NOTHING
    return reduced + (Traffic(share * w * size.total, buckets) if stage else NOTHING)


def duration_s(traffic: Traffic, gpu: Gpu, workers: int) -> float:
    """A ring passes each machine's border once, over all of its network cards together."""
    nodes = math.ceil(workers / gpu.gpus_per_node)
    speed = gpu.link_bytes_per_s
    if nodes > 1:
        speed = min(speed, gpu.gpus_per_node * gpu.network_bytes_per_s)
    return traffic.sent_bytes / (LINK_SHARE * speed) + traffic.calls * LATENCY_S * (1 + math.log2(nodes))


def _width(precision: str) -> int:
    return 2 if precision == "bf16" else 4
