"""Discriminator of GigaGAN: images come in at every resolution and are judged at every one below.

Kang et al. 2023, section 3.2. An image of a level enters at its own stage, and its features are carried through all
later stages by themselves: 5 + 4 + 3 + 2 + 1 = 15 judgements of a pyramid of 64 px, by shared weights. At a stage the
images of all levels that have entered are one batch.

Shapes: B images, C channels, r x r pixels of a level, h x w of features, K captions an image is judged by, T text
width, P judgements, M images of all levels that have entered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gen_dist.nets.gigagan.adaptive import AdaptiveConv2d
from gen_dist.nets.gigagan.attention import FeedForward, SelfAttention, on_positions
from gen_dist.nets.gigagan.layers import Activation, EqualConv2d
from gen_dist.nets.gigagan.pyramid import LOWEST_PX, sides
from gen_dist.nets.gigagan.sizes import Size
from gen_dist.nets.recompute import recomputed

RESIDUAL_GAIN = 0.4
HEAD_LAYERS = 4  # of psi
NEIGHBOURS = 4  # images that a minibatch deviation is taken over


def judgements(image_px: int, lowest_px: int = LOWEST_PX) -> list[tuple[int, int]]:
    """(level that the image entered at, stage that judges it) of each judgement, both counted from the finest.

    `lowest_px`: side of the last image that enters; there are stages down to 4 px whatever it is.
    """
    num_levels, num_stages = len(sides(image_px, lowest_px)), len(sides(image_px))
    return [(level, stage) for stage in range(num_stages) for level in range(min(stage + 1, num_levels))]


class Discriminator(nn.Module):
    """A pyramid of (B, 3, r, r), finest first, and captions (B, K, T) -> logits (B, K, P), positive for real ones.

    P is in the order of `judgements`. Twice differentiable.
    """

    def __init__(
        self, size: Size, *, image_px: int, lowest_px: int = LOWEST_PX, checkpoint_stages: bool = False
    ) -> None:
        """`lowest_px`: side of the last image of the pyramid.

        `checkpoint_stages`: keep no activations inside a stage, and compute them again in the backward pass.
        """
        super().__init__()
        levels = sides(image_px)
        channels = [size.discriminator_channels(side_px) for side_px in levels]
        entering = channels[: len(sides(image_px, lowest_px))]
        self.from_rgb = nn.ModuleList(EqualConv2d(3, width) for width in entering)
        self.stages = nn.ModuleList(
            Stage(before, after, size, side_px=side_px)
            for before, after, side_px in zip(channels, [*channels[1:], channels[-1]], levels, strict=True)
        )
        self.heads = nn.ModuleList(
            Head(width, size.text_width, size.activate) for width in [*channels[1:], channels[-1]]
        )
        self._checkpoint, self._activate = checkpoint_stages, size.activate

    def forward(self, pyramid: Sequence[Tensor], caption_BKT: Tensor, *, neighbours: int = NEIGHBOURS) -> Tensor:
        """The features of an image are computed once, whatever the number of captions.

        `neighbours`: images of a batch that a minibatch deviation is taken over; a divisor of B.
        """
        batch = len(caption_BKT)
        first, *later = [self._activate(layer(image)) for image, layer in zip(pyramid, self.from_rgb, strict=True)]
        x, found = first, []  # (M, C, r, r), by level and then by image
        for number, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            if 0 < number <= len(later):
                x = torch.cat([x, later[number - 1]])
            if self._checkpoint and torch.is_grad_enabled():
                x = recomputed(stage, x, neighbours)
            else:
                x = stage(x, neighbours)
            captions = caption_BKT.repeat(len(x) // batch, 1, 1)
            found.append(head(x, captions).unflatten(0, (-1, batch)))  # (levels so far, B, K)
        return torch.cat(found).permute(1, 2, 0)


class Stage(nn.Module):
    """(M, I, r, r) -> (M, O, r / 2, r / 2), and the last one -> (M, O, 1, 1)."""

    def __init__(self, inputs: int, outputs: int, size: Size, *, side_px: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(StageBlock(inputs, size.activate) for _ in range(size.discriminator_blocks))
        self.attention = nn.ModuleList(
            SelfAttention(inputs, num_heads=size.heads, twice_differentiable=True)
            for _ in range(size.discriminator_attention.get(side_px, 0))
        )
        self.mlps = nn.ModuleList(FeedForward(inputs) for _ in self.attention)
        self._last, self._activate = side_px == LOWEST_PX, size.activate
        self._spread = self._last and size.minibatch_std
        self.down = (
            EqualConv2d(inputs + self._spread, outputs, LOWEST_PX)
            if self._last
            else EqualConv2d(inputs, outputs, 3, stride=2, padding=1)
        )

    def forward(self, x: Tensor, neighbours: int) -> Tensor:
        """Residual blocks, attention, and half the resolution."""
        for block in self.blocks:
            x = x + RESIDUAL_GAIN * block(x)
        for layer, mlp in zip(self.attention, self.mlps, strict=True):
            x = x + layer(x)
            x = x + on_positions(mlp, x)
        if self._spread:
            x = torch.cat([x, spread(x, neighbours)], dim=1)
        return self._activate(self.down(x))


class StageBlock(nn.Module):
    """(M, C, r, r) -> (M, C, r, r)."""

    def __init__(self, channels: int, activate: Activation) -> None:
        super().__init__()
        self._activate = activate
        self.convs = nn.ModuleList(EqualConv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added."""
        for conv in self.convs:
            x = self._activate(conv(x))
        return x


class Head(nn.Module):
    """Features (M, C, h, w) and captions (M, K, T) -> logits (M, K): psi_j(phi, t) + Conv1x1(phi) (eq. 7)."""

    def __init__(self, channels: int, text_width: int, activate: Activation) -> None:
        super().__init__()
        self._activate = activate
        outputs = [channels] * (HEAD_LAYERS - 1) + [1]
        self.conditional = nn.ModuleList(
            AdaptiveConv2d(channels, width, style_width=text_width, side_px=1, demodulate=width > 1)
            for width in outputs
        )
        self.biases = nn.ParameterList(torch.zeros(width) for width in outputs[:-1])
        self.unconditional = EqualConv2d(channels, 1)

    def forward(self, features: Tensor, caption_MKT: Tensor) -> Tensor:
        """Means over the positions."""
        x = features[:, None].expand(-1, caption_MKT.shape[1], -1, -1, -1).flatten(0, 1)  # (MK, C, h, w)
        caption = caption_MKT.flatten(0, 1)
        *inner, last = self.conditional
        for conv, bias in zip(inner, self.biases, strict=True):
            x = self._activate(conv(x, caption) + bias[:, None, None])
        told = last(x, caption).mean(dim=(1, 2, 3)).unflatten(0, caption_MKT.shape[:2])
        return told + self.unconditional(features).mean(dim=(1, 2, 3))[:, None]


def spread(x: Tensor, neighbours: int) -> Tensor:
    """(M, 1, h, w): mean standard deviation over each `neighbours` images (Karras et al. 2018, section 3)."""
    grouped = x.unflatten(0, (-1, neighbours))
    deviation = (grouped.var(dim=1, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    return deviation.repeat_interleave(neighbours)[:, None, None, None].expand(-1, 1, *x.shape[2:])
