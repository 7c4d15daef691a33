"""Styles of GigaGAN's samples: drawn towards the mean of their caption and of all captions, or of two captions.

Shapes: B images, S style, T text width, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gen_dist.nets.gigagan.pyramid import sides
from gen_dist.recipes.contract import Ctx, PromptError
from gen_dist.recipes.randomness import Draw

MEAN_STYLES = 64  # that the mean style of a caption is taken of
RATE = 0.005  # of a step's styles taken into the mean, and more in the first steps: all count alike until 1 / RATE

MEAN, STEPS = "mean_style", "mean_style_steps"
"""Names of the state."""


class MeanStyle:
    """Running mean over the captions and latents of a training. It moves once a step, by the whole batch."""

    def __init__(self, width: int) -> None:
        self._mean_S, self._steps = torch.zeros(width), torch.zeros(1)
        self._unfolded: list[Tensor] = []  # (S + 1,) of each micro-batch of one step
        self._unfolded_step = 0

    def watch(self, style_BS: Tensor, weight_B: Tensor, *, step: int, mean: Callable[[Tensor], Tensor]) -> None:
        """Take in the styles of a micro-batch; `mean` is that over all workers. Collective."""
        if step != self._unfolded_step:
            self._fold()
            self._unfolded_step = step
        ones = style_BS.new_ones(len(style_BS), 1)
        self._unfolded.append(mean((weight_B[:, None] * torch.cat([style_BS.detach(), ones], dim=1)).mean(dim=0)))

    def value(self, like: Tensor) -> Tensor | None:
        """(S,) where `like` is; None before the first step."""
        self._fold()
        return self._mean_S.to(like) if self._steps.any() else None

    def state_dict(self) -> dict[str, Tensor]:
        """`MEAN` (S,) and `STEPS` (1,)."""
        self._fold()
        return {MEAN: self._mean_S.cpu(), STEPS: self._steps.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """What `state_dict` gave; a model of before there was one begins anew."""
        self._mean_S, self._steps = state.get(MEAN, self._mean_S), state.get(STEPS, self._steps)
        self._unfolded = []

    def _fold(self) -> None:
        """Take in a finished step: nothing here waits for a GPU."""
        if self._unfolded:
            sum_S, share = torch.stack(self._unfolded).mean(dim=0).split([len(self._mean_S), 1])
            # else nothing of this step could be read, or it was no number and may not have been made
            is_good = (share > 0) & sum_S.isfinite().all()
            steps, before_S = self._steps.to(share) + is_good.to(share), self._mean_S.to(share)
            rate = (1.0 / steps.clamp(min=1.0)).clamp(min=RATE)
            moved_S = torch.lerp(before_S, sum_S / share.clamp(min=1e-30), rate)
            self._mean_S = torch.where(is_good, moved_S, before_S)
            self._steps, self._unfolded = steps, []


def of_captions(ctx: Ctx, caption_BT: Tensor, *, latent_width: int) -> Tensor:
    """(B, S): the mean style of each, over latents that are always the same: a function of the caption alone."""
    latent = Draw(seed=0, first=0, count=MEAN_STYLES, device=ctx.device).normal(latent_width)
    captions = caption_BT.repeat_interleave(MEAN_STYLES, dim=0)
    styles = ctx.nets["mapping"](latent.repeat(len(caption_BT), 1), captions)
    return styles.unflatten(0, (-1, MEAN_STYLES)).mean(dim=1)


def truncated(style_BS: Tensor, of_caption_BS: Tensor, of_all_S: Tensor | None, share: float) -> Tensor:
    """Twice: towards the mean style of the caption, and from there towards that of all captions.

    Kang et al. 2023, section 3.4, after Karras et al. 2019, appendix B: lerp(w_mean, lerp(w_mean_c, w, psi), psi).
    """
    style_BS = torch.lerp(of_caption_BS, style_BS, share)
    return style_BS if of_all_S is None else torch.lerp(of_all_S, style_BS, share)


def finer(prompts: Sequence[str], from_px: int, *, image_px: int) -> dict[str, Any]:
    """Conditions of a sample whose levels from `from_px` on are drawn from other prompts. Raises: PromptError."""
    known = sides(image_px)[-2::-1]
    if from_px not in known:
        wanted = " or ".join(map(str, known))
        raise PromptError(f"fine levels from {from_px} px on: no level of its own; write --fine-from-px {wanted}")
    return {"fine_caption": list(prompts), "fine_from_px": from_px}
