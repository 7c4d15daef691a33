"""How often the discriminator of GigaGAN sees transformed images: never, at a fixed rate, or as often as it needs.

Karras et al. 2020, "Training generative adversarial networks with limited data", section 3.1: where it learns a small
set by heart, the sign of its logits of real images goes to 1, and transforms keep it from that.

Shapes: B images, r x r pixels of a level, L levels of the pyramid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gen_dist.recipes.contract import Ctx, Losses, mean
from gen_dist.recipes.gigagan_transforms import Transform, transform

STATE = "augment_probability", "augment_images"


class Augment:
    """The transforms of a training, and their probability, which moves once a step and is equal on all workers."""

    def __init__(self, settings: Any) -> None:
        """`settings`: of GigaGAN, whose `augment` and `augment_...` say all."""
        s = settings
        self._kinds, self._image_px, self._rise_images = s.augment_kinds, s.image_px, s.augment_images
        self._is_used, self._target = s.augment != "none", s.augment_target if s.augment == "adaptive" else None
        self._probability = torch.tensor(s.augment_probability if s.augment == "fixed" else 0.0)
        self._images = 0  # at which it moved last
        self._unfolded: list[Tensor] = []  # (2,) of each micro-batch of one step: sum of signs, share of readable ones
        self._unfolded_images = 0

    def __call__(self, ctx: Ctx, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """The levels (B, 3, r, r), or of several batches behind each other, each image by a transform of its own."""
        if not self._is_used:
            return list(pyramid)
        self._fold_before(ctx.clock.images)
        probability = self._probability.to(ctx.device)
        parts = [
            transform(ctx.draw, self._kinds, probability, image_px=self._image_px)
            for _ in range(len(pyramid[0]) // ctx.draw.count)
        ]
        return Transform.joined(parts)(pyramid)

    def watch(self, ctx: Ctx, real_BL: Tensor, weight_B: Tensor) -> Losses:
        """Take in the logits of real images of a micro-batch; what is logged of them. Collective."""
        if self._target is None:
            return {}
        self._fold_before(ctx.clock.images)
        self._unfolded_images = ctx.clock.images
        sign_B = real_BL.detach().sign().mean(dim=1)
        both = torch.stack([mean(sign_B, weight_B), weight_B.mean()])
        self._unfolded.append(ctx.mean(both))
        return {"augment_probability": self._probability.to(ctx.device), "real_sign": both[0]}

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing where the probability never moves."""
        self._fold()
        if self._target is None:
            return {}
        return dict(zip(STATE, (self._probability.reshape(1).cpu(), torch.tensor([self._images])), strict=True))

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave."""
        self._unfolded = []
        if STATE[0] in state:
            self._probability, self._images = state[STATE[0]].reshape(()), int(state[STATE[1]])

    def _fold_before(self, images: int) -> None:
        """Within a step the probability stays: of its phases and micro-batches, none may see another."""
        if images != self._unfolded_images:
            self._fold()

    def _fold(self) -> None:
        """Move by the images since the last step, up where the discriminator is too sure of real images."""
        if self._unfolded and self._target is not None:
            sign, share = torch.stack(self._unfolded).mean(dim=0)
            way = torch.nan_to_num((sign / share - self._target).sign())  # no number: nothing could be read
            moved = way * (self._unfolded_images - self._images) / self._rise_images
            self._probability = (self._probability.to(moved) + moved).clamp(0.0, 1.0)
            self._images, self._unfolded = self._unfolded_images, []
