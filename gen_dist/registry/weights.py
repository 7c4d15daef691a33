"""What a model draws with, as tensors to compare bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def drawing(model: Mapping[str, Tensor], recipe: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both parts under one name each: `model/NETWORK.PARAMETER` and `recipe/NAME`."""
    return {f"model/{key}": value for key, value in model.items()} | {
        f"recipe/{key}": value for key, value in recipe.items()
    }


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bits."""
    total = hashlib.sha256()
    for key in sorted(weights):
        value = weights[key]
        total.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(_bits(value).numpy().data)
    return total.hexdigest()


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> str:
    """The first thing in which they differ, in words; empty where every bit is equal."""
    for key in sorted(one.keys() | other.keys()):
        if key not in one or key not in other:
            return f"{key} is in only one of them"
        a, b = one[key], other[key]
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{key} is {a.dtype} {tuple(a.shape)} in one and {b.dtype} {tuple(b.shape)} in the other"
        if not torch.equal(_bits(a), _bits(b)):  # of bits: NaN equals itself, and 0.0 is not -0.0
            return f"{key} differs in {int((_bits(a) != _bits(b)).sum())} bytes"
    return ""


def _bits(value: Tensor) -> Tensor:
    return value.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
