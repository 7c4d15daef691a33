"""How the game of GigaGAN stands: what is logged of it, and when the discriminator has won.

Shapes: B images, H x W pixels, P judgements.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gen_dist.nets.gigagan import losses
from gen_dist.nets.gigagan.pyramid import sides
from gen_dist.recipes.contract import Losses, mean

GAP, SATURATION = "logit_gap", "saturation"


def standing(real_BP: Tensor, fake_BP: Tensor, weight_B: Tensor, *, image_px: int, lowest_px: int) -> Losses:
    """Nothing to descend: logits and losses by level, and how sure the discriminator is.

    `logit_gap` is that between real and drawn images, and `saturation` the share of the slope of the losses that is
    gone: 0 where the discriminator is undecided, 1 where it has no doubt.
    """
    span = (image_px, lowest_px)
    levels = {"real": losses.at_last_stage(real_BP, *span), "fake": losses.at_last_stage(fake_BP, *span)}
    found = {}
    for number, side_px in enumerate(sides(*span)):
        real_B, fake_B = (level[:, number] for level in levels.values())
        found[f"logit_real_{side_px}px"] = mean(real_B, weight_B)
        found[f"logit_fake_{side_px}px"] = mean(fake_B, weight_B)
        paid = losses.taken_for_fake(real_B) + losses.taken_for_real(fake_B)
        found[f"loss_{side_px}px"] = mean(paid, weight_B)
    found[GAP] = mean((levels["real"] - levels["fake"]).mean(dim=1), weight_B)
    found[SATURATION] = mean(losses.saturation(torch.cat([*levels.values()], dim=1)), weight_B)
    return found


def ranked(own_B: Tensor, wrong_B: Tensor) -> Tensor:
    """(B,): 1 where an image is judged higher beside its own caption than beside a wrong one, 0.5 where as high."""
    return 0.5 * ((own_B - wrong_B).sign() + 1.0)


def apart(image_B3HW: Tensor, weight_B: Tensor) -> Tensor:
    """(B,): mean absolute difference to the other drawings; 0 is one image for all."""
    flat = image_B3HW.flatten(1)
    others_B = (weight_B.sum() - weight_B).clamp(min=1)  # a sample that could not be read is nobody's neighbour
    return torch.cdist(flat, flat, p=1.0) @ weight_B / others_B / flat.shape[1]


def diagnosis(means: Mapping[str, float], *, phase: str, most: float) -> str:
    """What the means of `standing` in `phase` say of a game whose saturation is above `most`; empty where it is not."""
    saturation, gap = means.get(f"{phase}/{SATURATION}", 0.0), means.get(f"{phase}/{GAP}", 0.0)
    if saturation <= most:
        return ""
    what = (
        "the discriminator has won: it tells drawn images from real ones"
        if gap > 0
        else "the discriminator is lost: it takes drawn images for real ones"
    )
    return (
        f"{what} (saturation {saturation:.3f}, above model.lost_saturation={most:g}; logit gap {gap:.3g}); lower"
        " model.discriminator_learning_rate, or raise model.r1_gamma"
    )
