"""Synthesis network of GigaGAN: a style and words to images at every resolution from 4 px up.

Kang et al. 2023, section 3.1 and figure 4. Deviation: no noise maps, so that all that differs between two images of a
caption is in the latent.

Shapes: B images, C channels, r x r pixels of a level, S style, L words, T text width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_dist.nets.gigagan.adaptive import AdaptiveConv2d
from gen_dist.nets.gigagan.attention import CrossAttention, FeedForward, SelfAttention, on_positions
from gen_dist.nets.gigagan.pyramid import sides
from gen_dist.nets.gigagan.sizes import Size
from gen_dist.nets.recompute import recomputed

RESIDUAL_GAIN = 0.4


class Synthesis(nn.Module):
    """Style (B, S), words (B, L, T), mask (B, L) -> a pyramid: (B, 3, r, r), the highest resolution first."""

    def __init__(self, size: Size, *, image_px: int, checkpoint_levels: bool = False) -> None:
        """`checkpoint_levels`: keep no activations inside a level, and compute them again in the backward pass."""
        super().__init__()
        upwards = sides(image_px)[::-1]
        channels = [size.generator_channels(side_px) for side_px in upwards]
        self.constant = nn.Parameter(torch.randn(1, channels[0], upwards[0], upwards[0]))
        self.levels = nn.ModuleList(
            SynthesisLevel(before, after, size, side_px=side_px)
            for before, after, side_px in zip([channels[0], *channels[:-1]], channels, upwards, strict=True)
        )
        self._sides = upwards
        self._rgb_gain = 1.0 / math.sqrt(len(upwards))  # the images of all levels add up
        self._checkpoint = checkpoint_levels

    def forward(
        self,
        style_BS: Tensor,
        words_BLT: Tensor,
        mask_BL: Tensor,
        fine: tuple[Tensor, Tensor, Tensor] | None = None,
        *,
        fine_from_px: int = 0,
    ) -> list[Tensor]:
        """Of each level the sum of what it draws and of the level below, doubled.

        `fine`: other styles, words and masks, for the levels from `fine_from_px` on.
        """
        x = self.constant.expand(len(style_BS), -1, -1, -1)
        drawn: list[Tensor] = []
        for number, level in enumerate(self.levels):
            if number:
                x = double(x)
            told = (style_BS, words_BLT, mask_BL) if fine is None or self._sides[number] < fine_from_px else fine
            inputs = (x, *told)
            if self._checkpoint and torch.is_grad_enabled():
                x, rgb = recomputed(level, *inputs)
            else:
                x, rgb = level(*inputs)
            rgb = self._rgb_gain * rgb
            drawn.append(rgb + double(drawn[-1]) if drawn else rgb)
        return drawn[::-1]


class SynthesisLevel(nn.Module):
    """(B, I, r, r) -> features (B, O, r, r) and what they add to the image (B, 3, r, r)."""

    def __init__(self, inputs: int, outputs: int, size: Size, *, side_px: int) -> None:
        super().__init__()
        num_kernels = size.kernels.get(side_px, 1)
        self.blocks = nn.ModuleList(
            SynthesisBlock(outputs if number else inputs, outputs, size, num_kernels=num_kernels)
            for number in range(size.blocks.get(side_px, 1))
        )
        self.attention = nn.ModuleList(WordsAndPositions(outputs, size) for _ in range(size.attention.get(side_px, 0)))
        self.to_rgb = AdaptiveConv2d(outputs, 3, style_width=size.style_width, side_px=1, demodulate=False)
        self.rgb_bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style_BS: Tensor, words_BLT: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Convolutions, then self- and cross-attention (eq. 5), then colours; the first block changes the width."""
        for number, block in enumerate(self.blocks):
            x = x + RESIDUAL_GAIN * block(x, style_BS) if number else block(x, style_BS)
        for layer in self.attention:
            x = layer(x, style_BS, words_BLT, mask_BL)
        return x, self.to_rgb(x, style_BS) + self.rgb_bias[:, None, None]


class SynthesisBlock(nn.Module):
    """Two adaptive convolutions: (B, I, r, r) -> (B, O, r, r)."""

    def __init__(self, inputs: int, outputs: int, size: Size, *, num_kernels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            AdaptiveConv2d(before, outputs, style_width=size.style_width, num_kernels=num_kernels)
            for before in (inputs, outputs)
        )
        self.biases = nn.ParameterList(torch.zeros(outputs) for _ in self.convs)
        self._activate = size.activate

    def forward(self, x: Tensor, style_BS: Tensor) -> Tensor:
        """Each followed by a bias and the activation."""
        for conv, bias in zip(self.convs, self.biases, strict=True):
            x = self._activate(conv(x, style_BS) + bias[:, None, None])
        return x


class WordsAndPositions(nn.Module):
    """Self-attention and cross-attention, each with a network on the positions: (B, C, r, r) -> the same shape."""

    def __init__(self, channels: int, size: Size) -> None:
        super().__init__()
        self.positions = SelfAttention(
            channels, num_heads=size.heads, style_width=size.style_width, twice_differentiable=False
        )
        self.words = CrossAttention(channels, num_heads=size.heads, text_width=size.text_width)
        self.after_positions, self.after_words = FeedForward(channels), FeedForward(channels)

    def forward(self, x: Tensor, style_BS: Tensor, words_BLT: Tensor, mask_BL: Tensor) -> Tensor:
        """Each adds to the image."""
        x = x + self.positions(x, style_BS)
        x = x + on_positions(self.after_positions, x)
        x = x + self.words(x, words_BLT, mask_BL)
        return x + on_positions(self.after_words, x)


def double(x: Tensor) -> Tensor:
    """Twice as many pixels on each side, by bilinear interpolation: StyleGAN2's filter [1, 3, 3, 1]."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
