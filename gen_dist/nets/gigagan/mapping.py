"""Mapping network M: noise and a whole caption to a style.

Shapes: B images, Z latent, T text width, S style width.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from gen_dist.nets.gigagan.layers import EqualLinear, unit_rms
from gen_dist.nets.gigagan.sizes import Size

LAYERS = 4  # Kang et al. 2023, appendix A
RATE = 0.01  # of the optimizer's (Karras et al. 2019, "A style-based generator", appendix B)


class MappingNetwork(nn.Module):
    """Latent (B, Z) and caption (B, T) -> style (B, S)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.text = EqualLinear(size.text_width, size.style_width)
        widths = [size.latent_width + size.style_width, *([size.style_width] * LAYERS)]
        self._activate = size.activate
        self.layers = nn.ModuleList(EqualLinear(inputs, outputs, rate=RATE) for inputs, outputs in pairwise(widths))

    def forward(self, latent_BZ: Tensor, caption_BT: Tensor) -> Tensor:
        """Both of unit size before they meet, or the wider one would drown the other."""
        x = torch.cat([unit_rms(latent_BZ, dim=1), unit_rms(self.text(caption_BT), dim=1)], dim=1)
        for layer in self.layers:
            x = self._activate(layer(x))
        return x
