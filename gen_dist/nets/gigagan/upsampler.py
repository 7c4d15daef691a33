"""Upsampler of GigaGAN: a small image, a style and words to images at every resolution from the small one's up.

Kang et al. 2023, section 3.4: a U-Net whose way down has half the resolutions of its way up or fewer, joined where both
have the same resolution (Zhao et al. 2021, "Large scale image completion via co-modulated GANs"). Deviations: the
network is told how much noise was added to the small image, and what it draws is added to that image, doubled as often
as needed by bicubic interpolation. It starts as this enlargement, since its colours start at zero.

Shapes: B images, C channels, l x l pixels of the small image, r x r of a level, S style, L words, T text width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_dist.nets.gigagan.adaptive import AdaptiveConv2d
from gen_dist.nets.gigagan.discriminator import StageBlock
from gen_dist.nets.gigagan.layers import Activation, EqualConv2d
from gen_dist.nets.gigagan.pyramid import LOWEST_PX, sides
from gen_dist.nets.gigagan.sizes import Size
from gen_dist.nets.gigagan.synthesis import RESIDUAL_GAIN, SynthesisBlock, WordsAndPositions, double
from gen_dist.nets.recompute import recomputed

DOWNS = 3  # halvings of the small image, or fewer where that would be below 4 px (appendix A)


class Upsampler(nn.Module):
    """Small images (B, 3, l, l), their noise (B,), style, words, mask -> a pyramid, (B, 3, r, r) down to l."""

    def __init__(self, size: Size, *, image_px: int, low_px: int, checkpoint_levels: bool = False) -> None:
        """`checkpoint_levels`: keep no activations inside a level, and compute them again in the backward pass."""
        super().__init__()
        downwards = sides(low_px, max(LOWEST_PX, low_px >> DOWNS))
        upwards = sides(image_px, downwards[-1])[::-1]
        width = {side_px: size.generator_channels(side_px) for side_px in upwards}
        self.inward = EqualConv2d(4, width[low_px], 3, padding=1)
        self.downs = nn.ModuleList(
            Down(width[side_px], width[side_px // 2], size.activate) for side_px in downwards[:-1]
        )
        self.ups = nn.ModuleList(
            Up(width[before] + (width[side_px] if joined else 0), width[side_px], size, side_px=side_px)
            for before, side_px, joined in (
                (max(side_px // 2, upwards[0]), side_px, upwards[0] < side_px <= low_px) for side_px in upwards
            )
        )
        self.colours = nn.ModuleList(Colours(width[side_px], size) for side_px in upwards if side_px >= low_px)
        self._first_drawn = upwards.index(low_px)
        self._checkpoint, self._activate = checkpoint_levels, size.activate

    def forward(
        self, low_B3ll: Tensor, sigma_B: Tensor, style_BS: Tensor, words_BLT: Tensor, mask_BL: Tensor
    ) -> list[Tensor]:
        """Of each level, the highest resolution first, the image below, doubled, and what is drawn on it."""
        noise_B1ll = sigma_B[:, None, None, None].expand(-1, 1, *low_B3ll.shape[2:])
        x = self._activate(self.inward(torch.cat([low_B3ll, noise_B1ll], dim=1)))
        joined: list[Tensor] = []
        for down in self.downs:
            joined.append(x)
            x = self._run(down, x)
        drawn: list[Tensor] = []
        for number, up in enumerate(self.ups):
            if number:
                x = double(x)
                x = torch.cat([x, joined.pop()], dim=1) if joined else x
            x = self._run(up, x, style_BS, words_BLT, mask_BL)
            if number >= self._first_drawn:
                below = enlarged(drawn[-1]) if drawn else low_B3ll
                drawn.append(below + self.colours[len(drawn)](x, style_BS))
        return drawn[::-1]

    def _run(self, level: nn.Module, *inputs: Tensor) -> Tensor:
        if self._checkpoint and torch.is_grad_enabled():
            return recomputed(level, *inputs)
        return level(*inputs)


def enlarged(image_B3HW: Tensor) -> Tensor:
    """Twice as many pixels on each side, by bicubic interpolation, which is nearer to an image than bilinear is."""
    return F.interpolate(image_B3HW, scale_factor=2, mode="bicubic", align_corners=False)


class Down(nn.Module):
    """(B, I, r, r) -> (B, O, r / 2, r / 2)."""

    def __init__(self, inputs: int, outputs: int, activate: Activation) -> None:
        super().__init__()
        self.block = StageBlock(inputs, activate)
        self.smaller = EqualConv2d(inputs, outputs, 3, stride=2, padding=1)
        self._activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """A residual block, and half the resolution."""
        return self._activate(self.smaller(x + RESIDUAL_GAIN * self.block(x)))


class Up(nn.Module):
    """(B, I, r, r) -> (B, O, r, r)."""

    def __init__(self, inputs: int, outputs: int, size: Size, *, side_px: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SynthesisBlock(outputs if number else inputs, outputs, size, num_kernels=size.kernels.get(side_px, 1))
            for number in range(size.blocks.get(side_px, 1))
        )
        self.attention = nn.ModuleList(WordsAndPositions(outputs, size) for _ in range(size.attention.get(side_px, 0)))

    def forward(self, x: Tensor, style_BS: Tensor, words_BLT: Tensor, mask_BL: Tensor) -> Tensor:
        """Adaptive convolutions, of which the first block changes the width, then self- and cross-attention."""
        for number, block in enumerate(self.blocks):
            x = x + RESIDUAL_GAIN * block(x, style_BS) if number else block(x, style_BS)
        for layer in self.attention:
            x = layer(x, style_BS, words_BLT, mask_BL)
        return x


class Colours(nn.Module):
    """(B, C, r, r) -> what is added to an image (B, 3, r, r): nothing, at first."""

    def __init__(self, channels: int, size: Size) -> None:
        super().__init__()
        self.conv = AdaptiveConv2d(channels, 3, style_width=size.style_width, side_px=1, demodulate=False)
        nn.init.zeros_(self.conv.kernels)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, style_BS: Tensor) -> Tensor:
        """One adaptive convolution of each position."""
        return self.conv(x, style_BS) + self.bias[:, None, None]
