"""The losses of GigaGAN that need a frozen CLIP model: contrastive, and vision-aided with heads that learn.

Shapes: B images, E embedding, T text width, h judgements of the heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_dist.nets.gigagan import losses
from gen_dist.nets.gigagan.judges import PairModel, VisionHeads, VisionModel
from gen_dist.nets.text import PretrainedTokens
from gen_dist.recipes.contract import Ctx, Losses, mean

TOKENS = 77  # that CLIP knows


class ClipJudge:
    """How well drawings fit their captions, by a frozen pair model."""

    def __init__(self, folder: Path) -> None:
        """Raises: PretrainedError."""
        self.model = PairModel(folder)
        self._tokens = PretrainedTokens(folder, length=TOKENS, setting="clip")

    def loss(self, ctx: Ctx, image: Tensor, captions: Sequence[str], weight_B: Tensor) -> Tensor:
        """(B,): InfoNCE against the captions of all workers (eq. 9)."""
        image_BE, text_BE = ctx.frozen["clip"](image, self._tokens(captions).to(ctx.device))
        return losses.contrastive(image_BE, ctx.rows(text_BE), ctx.rows(weight_B), logit_scale=self.model.logit_scale)

    def cosine(self, ctx: Ctx, image: Tensor, captions: Sequence[str]) -> Tensor:
        """(B,): of the embeddings of each image and its caption."""
        return F.cosine_similarity(*ctx.frozen["clip"](image, self._tokens(captions).to(ctx.device)))


class VisionJudge:
    """Heads on a frozen image model, which learn to tell drawings from images: a second discriminator."""

    def __init__(self, folder: Path, *, text_width: int) -> None:
        """Raises: PretrainedError."""
        self.model = VisionModel(folder)
        self._text_width = text_width

    def heads(self) -> nn.Module:
        """Fresh ones."""
        return VisionHeads(self.model.width, self._text_width)

    def fooled(self, ctx: Ctx, fake: Tensor, caption_BT: Tensor) -> Tensor:
        """(B,): what the generator pays."""
        return losses.taken_for_fake(ctx.nets["vision_heads"](ctx.frozen["vision"](fake), caption_BT)).mean(dim=1)

    def losses(self, ctx: Ctx, real: Tensor, fake: Tensor, caption_BT: Tensor, weight_B: Tensor) -> Losses:
        """What the heads pay on real and on drawn images."""
        with torch.no_grad():
            features = ctx.frozen["vision"](torch.cat([real, fake]))
        real_Bh, fake_Bh = ctx.nets["vision_heads"](features, caption_BT.repeat(2, 1)).chunk(2)
        paid = {"real": losses.taken_for_fake(real_Bh), "fake": losses.taken_for_real(fake_Bh)}
        return {name: mean(value, weight_B) for name, value in paid.items()}
