"""Frozen networks that help to judge drawings: CLIP's image and text models, and its image model with trained heads.

Kang et al. 2023, section 3.3: the contrastive loss (eq. 9) and the vision-aided discriminator (Kumari et al. 2022,
"Ensembling off-the-shelf models for GAN training").

Shapes: B images, H x W pixels, E embedding, N positions of a feature, V their width, T text width.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_dist.nets.gigagan.adaptive import AdaptiveConv2d
from gen_dist.nets.gigagan.layers import EqualConv2d, leaky
from gen_dist.nets.pretrained import PretrainedError, load_model, model_type

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's own preprocessing, for pixels in [0, 1]
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
NUM_FEATURES = 4  # depths of the image model that are judged, evenly spaced, the last one among them
PROJECTED = 256  # channels of the fixed random projection of each


def _read(folder: Path, setting: str, kind: str) -> Any:
    from transformers import CLIPModel, CLIPVisionModel

    wanted = {"clip": CLIPModel, "clip_vision_model": CLIPVisionModel}[kind]
    found = model_type(folder, setting=setting, what="a folder of a CLIP model that save_pretrained wrote")
    if found not in ("clip", kind):
        what = {"clip": "a CLIPModel, of images and text", "clip_vision_model": "a CLIPVisionModel or CLIPModel"}[kind]
        raise PretrainedError(
            f"model.{setting}={str(folder)!r}: a model of the type {found}; name a folder that holds {what}"
        )
    return load_model(wanted, folder, setting=setting)


def _prepared(image_B3HW: Tensor, side_px: int) -> Tensor:
    """Images in [-1, 1] as CLIP takes them: (B, 3, side, side)."""
    resized = F.interpolate(image_B3HW, size=(side_px, side_px), mode="bicubic", antialias=True, align_corners=False)
    mean, std = (resized.new_tensor(value)[:, None, None] for value in (CLIP_MEAN, CLIP_STD))
    return (0.5 * resized + 0.5 - mean) / std


class PairModel(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] and tokens with mask (2, B, L) -> embeddings, (B, E) each."""

    def __init__(self, folder: Path) -> None:
        """Raises: PretrainedError."""
        super().__init__()
        self.model: Any = _read(folder, "clip", "clip")
        self.logit_scale = float(self.model.logit_scale.detach().exp())

    def forward(self, image_B3HW: Tensor, tokens_2BL: Tensor) -> tuple[Tensor, Tensor]:
        """The text has no gradient."""
        pixels = _prepared(image_B3HW, self.model.config.vision_config.image_size)
        image_BE = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        with torch.no_grad():
            text = self.model.text_model(input_ids=tokens_2BL[0], attention_mask=tokens_2BL[1]).pooler_output
            return image_BE, self.model.text_projection(text)


class VisionModel(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] -> `NUM_FEATURES` of (B, V, h, w), of even depths."""

    def __init__(self, folder: Path) -> None:
        """Raises: PretrainedError."""
        super().__init__()
        self.model: Any = _read(folder, "vision", "clip_vision_model")
        self.width = int(self.model.config.hidden_size)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """Hidden states without that of the class."""
        pixels = _prepared(image_B3HW, self.model.config.image_size)
        hidden = self.model(pixel_values=pixels, output_hidden_states=True).hidden_states
        depths = [round(number * (len(hidden) - 1) / NUM_FEATURES) for number in range(1, NUM_FEATURES + 1)]
        side = math.isqrt(hidden[0].shape[1] - 1)
        return [hidden[depth][:, 1:].transpose(1, 2).unflatten(2, (side, side)) for depth in depths]


class VisionHeads(nn.Module):
    """Features of `VisionModel` and captions (B, T) -> logits (B, NUM_FEATURES), positive for real images."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        for number in range(NUM_FEATURES):
            self.register_buffer(f"projection_{number}", torch.randn(PROJECTED, width, 1, 1) / math.sqrt(width))
        self.convs = nn.ModuleList(EqualConv2d(PROJECTED, PROJECTED, 3, padding=1) for _ in range(NUM_FEATURES))
        self.told = nn.ModuleList(
            AdaptiveConv2d(PROJECTED, 1, style_width=text_width, side_px=1, demodulate=False)
            for _ in range(NUM_FEATURES)
        )

    def forward(self, features: list[Tensor], caption_BT: Tensor) -> Tensor:
        """A fixed random projection, a convolution, and a judgement that the caption modulates."""
        found = []
        for number, (feature, conv, told) in enumerate(zip(features, self.convs, self.told, strict=True)):
            projection = self.get_buffer(f"projection_{number}").to(feature)  # DeepSpeed leaves buffers in fp32
            x = leaky(conv(F.conv2d(feature, projection)))
            found.append(told(x, caption_BT).mean(dim=(1, 2, 3)))
        return torch.stack(found, dim=1)
