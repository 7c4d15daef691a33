"""What a phase costs at any micro-batch, from two sizes that were counted: all of it grows by the image."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from gen_dist.job.settings import compared_images
from gen_dist.plan.trace import Model, PhaseCost

COUNTED_IMAGES = 4  # the smaller of the two micro-batches


class Growth:
    """Costs of all phases as lines through two points."""

    def __init__(self, model: Model) -> None:
        together = compared_images(model.recipe.settings)
        self._small = math.lcm(COUNTED_IMAGES, together)
        self._model = model

    def costs(self, micro_batch_images: int, split: Collection[str] = ()) -> dict[str, PhaseCost]:
        """Every phase by name; `split`: groups at ZeRO-3."""
        low, high = (self._model.costs(size, split) for size in (self._small, 2 * self._small))
        share = micro_batch_images / self._small - 1.0
        return {name: _on_line(cost, high[name], share) for name, cost in low.items()}


def _on_line(low: PhaseCost, high: PhaseCost, share: float) -> PhaseCost:
    """`share`: 0 at `low`, 1 at `high`."""

    def at(name: str) -> int:
        first = getattr(low, name)
        return max(0, round(first + share * (getattr(high, name) - first)))

    return replace(
        low,
        activation_bytes=at("activation_bytes"),
        flops=at("flops"),
        moved_bytes=at("moved_bytes"),
        # losses that look at each image of a batch by itself have a kernel for each; more of them is no faster
        num_kernels=max(low.num_kernels, at("num_kernels")),
    )
