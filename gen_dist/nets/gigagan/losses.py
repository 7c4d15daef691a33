"""Losses of GigaGAN as functions of logits, a number for each image: weights, means and networks are the caller's.

Logits are positive where the discriminator takes an image for real. Kang et al. 2023, sections 3.2 and 3.3.

Shapes: B images, P judgements (`judgements` of the discriminator), L levels of the pyramid, down to `lowest_px`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gen_dist.nets.gigagan.discriminator import NEIGHBOURS, judgements
from gen_dist.nets.gigagan.pyramid import LOWEST_PX, sides


def taken_for_fake(logit: Tensor) -> Tensor:
    """-log sigmoid(D): what the discriminator pays on a real image, and the generator on its own."""
    return F.softplus(-logit)


def taken_for_real(logit: Tensor) -> Tensor:
    """-log (1 - sigmoid(D)): what the discriminator pays on a drawn image, and on one beside a wrong caption."""
    return F.softplus(logit)


def level_weights(image_px: int, lowest_px: int = LOWEST_PX) -> list[float]:
    """Shares of the levels, finest first, which has twice that of each other: 0.33 and four of 0.17 at 64 px."""
    num_levels = len(sides(image_px, lowest_px))
    return [(2.0 if level == 0 else 1.0) / (num_levels + 1) for level in range(num_levels)]


def judgement_weights(image_px: int, lowest_px: int = LOWEST_PX, *, early_exit: float) -> Tensor:
    """(P,): the share of the level that the image entered at, times `early_exit` at all stages but the last."""
    of_level, last = level_weights(image_px, lowest_px), len(sides(image_px)) - 1
    return torch.tensor(
        [of_level[level] * (1.0 if stage == last else early_exit) for level, stage in judgements(image_px, lowest_px)]
    )


def by_level(logit_BP: Tensor, image_px: int, lowest_px: int = LOWEST_PX, *, early_exit: float) -> Tensor:
    """(B, L): what the images of each level are judged as, the mean over its stages weighted as its losses are."""
    last = len(sides(image_px)) - 1
    weight_PL = logit_BP.new_zeros(logit_BP.shape[1], len(sides(image_px, lowest_px)))
    for number, (level, stage) in enumerate(judgements(image_px, lowest_px)):
        weight_PL[number, level] = 1.0 if stage == last else early_exit
    return logit_BP @ (weight_PL / weight_PL.sum(dim=0))


def at_last_stage(logit_BP: Tensor, image_px: int, lowest_px: int = LOWEST_PX) -> Tensor:
    """(B, L): the judgement of each level that has passed all stages."""
    last = len(sides(image_px)) - 1
    return logit_BP[:, [number for number, (_, stage) in enumerate(judgements(image_px, lowest_px)) if stage == last]]


def slope_penalty(leaves: Sequence[Tensor], logit_BL: Tensor, weight_L: Tensor) -> Tensor:
    """(B,): sum_l weight_l |grad of logit_l with respect to the image of level l|^2, differentiable once more.

    The judgement of a level depends on the image of that level alone (Mescheder et al. 2018, eq. 9, for each of them).
    """
    slopes = torch.autograd.grad(logit_BL.sum(), list(leaves), create_graph=True)
    square_BL = torch.stack([slope.square().sum(dim=(1, 2, 3)) for slope in slopes], dim=1)
    return square_BL @ weight_L


def difference_penalty(logit_BL: Tensor, moved_BL: Tensor, weight_L: Tensor, *, sigma: float) -> Tensor:
    """(B,): what `slope_penalty` is in the mean over noise, from logits of images moved by sigma times N(0, 1).

    E[(D(x + sigma e) - D(x))^2] = sigma^2 |grad D|^2 + O(sigma^4), so that gamma / 2 times this is
    lambda |D(x) - D(x + sigma e)|^2 with lambda = gamma / (2 sigma^2) (Lin et al. 2025, "Diffusion adversarial
    post-training", section 3.3). It needs no gradient of a gradient.
    """
    return ((moved_BL - logit_BL) / sigma).square() @ weight_L


def neighbours(num_images: int) -> int:
    """Images that are compared with each other: of what divides the batch, so that they stay in a micro-batch.

    `NEIGHBOURS` where they do, else fewer, but never one alone; of a prime number of images, such as 5, all of them.
    """
    sizes = [size for size in range(2, num_images + 1) if num_images % size == 0]
    return max((size for size in sizes if size <= NEIGHBOURS), default=min(sizes, default=1))


def with_neighbours(weight_B: Tensor) -> Tensor:
    """(B,) of 0 for an unreadable image and for those whose judgement depends on it by their spread."""
    size = neighbours(len(weight_B))
    return weight_B.unflatten(0, (-1, size)).amin(dim=1).repeat_interleave(size)


def other_captions(captions: Sequence[str], weight_B: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) whose caption is the wrong one for each image, and (B,) weights: 0 where no neighbour has another.

    Among its `neighbours`, so that it is the same in every micro-batch of a multiple of `NEIGHBOURS` images; the next
    one whose caption differs. An unreadable image has none.
    """
    size = neighbours(len(captions))
    readable = (weight_B != 0).tolist()
    index, found = [], []
    for image, caption in enumerate(captions):
        first = image // size * size
        others = [first + (image - first + step) % size for step in range(1, size)]
        differing = [other for other in others if readable[other] and captions[other] != caption]
        index.append(differing[0] if differing else image)
        found.append(float(bool(differing)))
    device = weight_B.device
    return torch.tensor(index, device=device), weight_B * torch.tensor(found, device=device)


def contrastive(image_BE: Tensor, text_BE: Tensor, weight_B: Tensor, *, logit_scale: float) -> Tensor:
    """(B,): -log of the share of an image's own caption among all captions of the batch (eq. 9).

    (B, E) embeddings of any length; `text_BE` may have more rows, of other images. Captions of weight 0 are no
    candidates, and images of weight 0 cost nothing; `weight_B` has a number for each row of `text_BE`.
    """
    similarity = logit_scale * F.normalize(image_BE, dim=1) @ F.normalize(text_BE, dim=1).t()
    own = torch.arange(len(image_BE), device=image_BE.device)
    barred = (weight_B == 0)[None, :] & (own[:, None] != torch.arange(len(text_BE), device=own.device)[None, :])
    return weight_B[: len(own)] * F.cross_entropy(similarity.masked_fill(barred, -math.inf), own, reduction="none")


def saturation(logit: Tensor) -> Tensor:
    """0 where the discriminator is undecided, towards 1 where it is so sure that the losses have no slope."""
    share = torch.sigmoid(logit)
    return 1.0 - 4.0 * share * (1.0 - share)
