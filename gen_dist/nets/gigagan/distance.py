"""Attention by distance, softmax(-|q_i - k_j|^2 / sqrt(8 D)) v, by a fused kernel; also where a penalty is on its
slopes.

No fused kernel can be differentiated twice, and written out, attention keeps its logits several times over: at 32 px
most of what the discriminator's penalty needed. Here nothing but the inputs is kept; the second derivative alone is of
the form that is written out, a few images at a time.

Shapes: B images, K heads, N queries, M keys, D features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LOGITS = 1 << 24  # that are written out at once
MULTIPLES = {"cuda": 8}  # of features: with others, no kernel for fp32 is a fused one there (what a penalty is in)


def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(B, K, N, D) and twice (B, K, M, D) -> (B, K, N, D). Its slopes have none.

    Of q and k that are N(0, 1), |q - k|^2 has the variance 8 D: logits then start at unit variance.
    """
    scale, offset = _terms(key)
    # the offset as one more feature, of queries that are 1 there: fused kernels take no bias that learns
    query = torch.cat([2.0 * scale * query, torch.ones_like(query[..., :1])], dim=-1)
    key = torch.cat([key, offset], dim=-1)
    num_features = value.shape[-1]
    spare = -query.shape[-1] % MULTIPLES.get(query.device.type, 1)
    if spare:
        query, key = F.pad(query, (0, spare)), F.pad(key, (0, spare))
    value = F.pad(value, (0, 1 + spare))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :num_features]


def written_out(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same, with all logits."""
    scale, offset = _terms(key)
    logits = (2.0 * scale * query) @ key.transpose(-2, -1) + offset.transpose(-2, -1)
    return logits.softmax(dim=-1) @ value


def differentiable_twice(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`fused`, whose slopes have slopes: those of `written_out`."""
    mixed: Tensor = _attention(query, key, value)
    return mixed


def _terms(key: Tensor) -> tuple[float, Tensor]:
    """What q_i k_j is multiplied with, halved, and (B, K, M, 1) that is added; |q_i|^2 no softmax over j would see."""
    scale = 1.0 / math.sqrt(8.0 * key.shape[-1])
    return scale, -scale * key.square().sum(dim=-1, keepdim=True)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return fused(query, key, value)

    @staticmethod
    def backward(ctx: Any, *above: Any) -> Any:
        return _slopes(*above, *ctx.saved_tensors)


class _Slopes(torch.autograd.Function):
    """Those of `_Attention`, by query, key and value; `above`: that of what follows, by its result."""

    @staticmethod
    def forward(ctx: Any, above: Tensor, *inputs: Any) -> Any:
        ctx.save_for_backward(above, *inputs)
        leaves = [one.detach().requires_grad_() for one in inputs]
        with torch.enable_grad():
            mixed = fused(*leaves)
        return torch.autograd.grad(mixed, leaves, above)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Any) -> Any:
        _, query, key, _ = saved = ctx.saved_tensors
        images = max(1, LOGITS // (query.shape[1] * query.shape[2] * key.shape[2]))
        found = []
        for part in zip(*(one.split(images) for one in (*saved, *above)), strict=True):
            first, *leaves = (one.detach().requires_grad_() for one in part[:4])
            with torch.enable_grad():
                slopes = torch.autograd.grad(written_out(*leaves), leaves, first, create_graph=True)
            found.append(torch.autograd.grad(slopes, [first, *leaves], part[4:]))
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


_attention: Any = _Attention.apply  # torch does not type them
_slopes: Any = _Slopes.apply
