"""Piece: what one worker holds of a tensor; and what all pieces of one must be: the whole tensor, each part once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Number formats by the names that safetensors gives them."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Piece:
    """A part of a tensor as this worker holds it. Padding is no part of a tensor and is not given."""

    key: str
    """`SECTION/...`, such as `weight/denoiser/nets.denoiser.conv_in.weight`; any first word is a section."""
    shape: tuple[int, ...]
    """Of the whole tensor."""
    start: int
    """Where the part begins in the flattened tensor, in elements."""
    values: Tensor
    """The part, in the order of the flattened tensor; any device."""
    lasting: bool = False
    """Whether it stays as it is until whoever saves has called `settle`: copied beside what is done till then."""

    @property
    def spec(self) -> PieceSpec:
        return PieceSpec(self.key, self.shape, self.start, self.values.numel(), self.values.dtype)


class PieceSpec(NamedTuple):
    """A piece without its values: where they belong."""

    key: str
    shape: tuple[int, ...]
    start: int
    numel: int
    dtype: torch.dtype


class Fragment(NamedTuple):
    """Where a part of a tensor is stored."""

    start: int
    """Of the flattened tensor, in elements."""
    numel: int
    file: str
    """Name within the checkpoint."""
    offset: int
    """Of its first byte in the file."""


def tiling_fault(shape: Sequence[int], fragments: Sequence[Fragment]) -> str:
    """What keeps the fragments, sorted by start, from being the whole tensor with each element once; "" if nothing."""
    end, before = 0, ""
    for fragment in fragments:
        if fragment.start > end:
            return f"elements {end} to {fragment.start} are missing"
        if fragment.start < end:
            return f"elements {fragment.start} to {end} are in {before} and in {fragment.file}"
        end, before = fragment.start + fragment.numel, fragment.file
    numel = math.prod(shape)
    return "" if end == numel else f"elements {end} to {numel} are missing"
