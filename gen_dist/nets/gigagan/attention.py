"""Attention of GigaGAN: by distance among positions of an image, and by words of a caption.

Self-attention compares by squared distance, queries tied to keys (Kim et al. 2021, "The Lipschitz constant of
self-attention"): the discriminator stays Lipschitz, which dot products do not. Written out, -|q_i - q_j|^2 is
2 q_i q_j - |q_j|^2 and a term that a softmax over j does not see, so that no distance is ever computed, and no root of
0 differentiated.

Shapes: B images, C channels, H x W pixels, N = H * W positions, K heads, D = C / K, L words, S style, T text width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_dist.nets.gigagan.distance import differentiable_twice, fused
from gen_dist.nets.gigagan.layers import EqualLinear, unit_rms

RESIDUAL_GAIN = 0.3
MLP_RATIO = 4
GELU_GAIN = 1.5335  # 1 / root of the mean square of GELU of N(0, 1)


class SelfAttention(nn.Module):
    """(B, C, H, W) -> (B, C, H, W), by L2 distance; with a style, that is one more key and value."""

    def __init__(self, channels: int, *, num_heads: int, style_width: int = 0, twice_differentiable: bool) -> None:
        """`style_width` 0: there is no style. `twice_differentiable`: for a gradient penalty."""
        super().__init__()
        self.query = EqualLinear(channels, channels, start=None)  # no distance would know of a bias
        self.value = EqualLinear(channels, channels)
        self.out = EqualLinear(channels, channels)
        self.style = EqualLinear(style_width, channels) if style_width else None
        self._num_heads, self._attend = num_heads, differentiable_twice if twice_differentiable else fused

    def forward(self, x_BCHW: Tensor, style_BS: Tensor | None = None) -> Tensor:
        """What is to be added to the image."""
        tokens_BNC = x_BCHW.flatten(2).transpose(1, 2)
        if self.style is not None:
            assert style_BS is not None, "built with a style; call it with one"
            tokens_BNC = torch.cat([tokens_BNC, self.style(style_BS)[:, None]], dim=1)
        key = _heads(self.query(tokens_BNC), self._num_heads)  # (B, K, N or N + 1, D)
        value = _heads(self.value(tokens_BNC), self._num_heads)
        query = key[:, :, : x_BCHW.shape[2] * x_BCHW.shape[3]]
        mixed = self._attend(query, key, value)
        return RESIDUAL_GAIN * self.out(_joined(mixed)).transpose(1, 2).unflatten(2, x_BCHW.shape[2:])


class CrossAttention(nn.Module):
    """(B, C, H, W) and words (B, L, T) with their mask (B, L) -> (B, C, H, W), by dot products."""

    def __init__(self, channels: int, *, num_heads: int, text_width: int) -> None:
        super().__init__()
        self.query = EqualLinear(channels, channels)
        self.key = EqualLinear(text_width, channels, start=None)  # a softmax would not know of a bias
        self.value = EqualLinear(text_width, channels)
        self.out = EqualLinear(channels, channels)
        self._num_heads = num_heads

    def forward(self, x_BCHW: Tensor, words_BLT: Tensor, mask_BL: Tensor) -> Tensor:
        """What is to be added to the image; words whose mask is False are not looked at."""
        tokens_BNC = unit_rms(x_BCHW, dim=1).flatten(2).transpose(1, 2)
        query = _heads(self.query(tokens_BNC), self._num_heads)
        key, value = (_heads(part(words_BLT), self._num_heads) for part in (self.key, self.value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_BL[:, None, None, :])
        return RESIDUAL_GAIN * self.out(_joined(mixed)).transpose(1, 2).unflatten(2, x_BCHW.shape[2:])


class FeedForward(nn.Module):
    """(..., C) -> (..., C), each position by itself."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = EqualLinear(channels, MLP_RATIO * channels)
        self.out = EqualLinear(MLP_RATIO * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added."""
        return RESIDUAL_GAIN * self.out(GELU_GAIN * F.gelu(self.wide(x)))


def on_positions(layer: nn.Module, x_BCHW: Tensor) -> Tensor:
    """A layer of (..., C) on each position of (B, C, H, W)."""
    return layer(x_BCHW.movedim(1, -1)).movedim(-1, 1)


def _heads(x_BNC: Tensor, num_heads: int) -> Tensor:
    return x_BNC.unflatten(2, (num_heads, -1)).transpose(1, 2)  # (B, K, N, D)


def _joined(x_BKND: Tensor) -> Tensor:
    return x_BKND.transpose(1, 2).flatten(2)  # (B, N, C)
