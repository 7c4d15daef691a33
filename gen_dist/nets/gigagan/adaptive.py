"""Convolution whose kernel is chosen for each image: a mixture of a bank of kernels, modulated by the style.

Kang et al. 2023, section 3.1:

    K(w)   = sum_n a_n K_n,  a = softmax(W_f w + b_f)                         (eq. 1)
    y      = demod((W_m w + b_m) * K(w)) conv f                               (eq. 2)

Two forms compute it. `grouped` makes the kernel of each image and convolves each image with its own. `shared` makes no
kernel of an image: a convolution is linear in its kernel, so with modulation s and demodulation d

    y_o    = d_o sum_n conv(a_n s f, K_n)_o                 one convolution of N times the input channels
    d_o^-2 = sum_nmi a_n a_m s_i^2 G[n, m, o, i],  G = sum_kl K_n K_m

It does N times the multiplications, in one dense convolution, and holds no B kernels. `prefers_shared` says which of
the two is the faster one.

Shapes: B images, I channels in, O channels out, H x W pixels, N kernels, k x k of a kernel, S style.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_dist.nets.gigagan.layers import EqualLinear

EPS = 1e-8
# Making and updating a weight of an image's own kernel costs as much as multiplying it with so many pixels. From
# forward and backward passes on one core, 4 and 16 images, 24 to 256 channels, 4 to 64 px, 1 to 8 kernels: `grouped`
# took 1.4 to 3.4 times as long as `shared` at 8 px with 2 kernels, 0.4 to 0.9 times at 16 px (twice as long with 256
# channels and 16 images), and 0.2 to 0.6 times from 32 px on.
KERNEL_PIXELS = 150


class AdaptiveConv2d(nn.Module):
    """(B, I, H, W) and style (B, S) -> (B, O, H, W)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        style_width: int,
        num_kernels: int = 1,
        side_px: int = 3,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(outputs, num_kernels, inputs, side_px, side_px))
        self.modulation = EqualLinear(style_width, inputs, start=1.0)
        self.selection = EqualLinear(style_width, num_kernels) if num_kernels > 1 else None
        self._gain = 1.0 / math.sqrt(inputs * side_px**2)
        self._demodulate = demodulate

    def forward(self, x_BIHW: Tensor, style_BS: Tensor) -> Tensor:
        """By the faster form."""
        share_BN = (
            style_BS.new_ones(len(style_BS), 1) if self.selection is None else self.selection(style_BS).softmax(dim=1)
        )
        scale_BI = self.modulation(style_BS)
        kernels = self.kernels * self._gain
        form = shared if prefers_shared(x_BIHW.shape, kernels.shape) else grouped
        return form(x_BIHW, kernels, share_BN, scale_BI, demodulate=self._demodulate)


def prefers_shared(x_shape: torch.Size | tuple[int, ...], kernels_shape: torch.Size | tuple[int, ...]) -> bool:
    """Whether `shared` is the faster form for these shapes: few pixels, or a single kernel."""
    pixels, num_kernels = x_shape[2] * x_shape[3], kernels_shape[1]
    return num_kernels * pixels <= pixels + KERNEL_PIXELS


def shared(x_BIHW: Tensor, kernels: Tensor, share_BN: Tensor, scale_BI: Tensor, *, demodulate: bool = True) -> Tensor:
    """(B, O, H, W) by one dense convolution; `kernels` (O, N, I, k, k), and the share of a single one is 1."""
    weight_BNI = share_BN[:, :, None] * scale_BI[:, None, :]
    stacked = (weight_BNI[..., None, None] * x_BIHW[:, None]).flatten(1, 2)  # (B, NI, H, W)
    y_BOHW = F.conv2d(stacked, kernels.flatten(1, 2), padding=kernels.shape[-1] // 2)
    if not demodulate:
        return y_BOHW
    if kernels.shape[1] == 1:
        power_BO = scale_BI.square() @ kernels.square().sum(dim=(1, 3, 4)).t()
    else:
        gram = torch.einsum("onikl,omikl->nmoi", kernels, kernels)
        pair_BNMO = torch.einsum("bi,nmoi->bnmo", scale_BI.square(), gram)
        power_BO = torch.einsum("bn,bm,bnmo->bo", share_BN, share_BN, pair_BNMO)
    return y_BOHW * torch.rsqrt(power_BO + EPS)[:, :, None, None]


def grouped(x_BIHW: Tensor, kernels: Tensor, share_BN: Tensor, scale_BI: Tensor, *, demodulate: bool = True) -> Tensor:
    """(B, O, H, W) by one convolution of B groups; `kernels` (O, N, I, k, k)."""
    batch, inputs, height, width = x_BIHW.shape
    own = torch.einsum("bn,onikl->boikl", share_BN, kernels) * scale_BI[:, None, :, None, None]
    if demodulate:
        own = own * torch.rsqrt(own.square().sum(dim=(2, 3, 4), keepdim=True) + EPS)
    joined = x_BIHW.reshape(1, batch * inputs, height, width)
    y = F.conv2d(joined, own.flatten(0, 1), padding=kernels.shape[-1] // 2, groups=batch)
    return y.reshape(batch, -1, height, width)
