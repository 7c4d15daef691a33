"""Random numbers that belong to a sample: the same on any device and number of workers, and after a resume.

A number is a pure function of (seed, global position of the sample, turn, element), computed by the SplitMix64 mixer
(Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", figure 16) in int64 tensor arithmetic. No
global generator is read.

Shapes: B samples, E elements a sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: SplitMix64's increment
_TWO_32 = 1 << 32


def _signed(value: int) -> int:
    """The int64 that has the same 64 bits as `value` modulo 2^64: torch has no wrapping uint64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _shift_right(bits: Tensor, places: int) -> Tensor:
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finalizer, element by element; int64 in, int64 out."""
    bits = (bits ^ _shift_right(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shift_right(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shift_right(bits, 31)


class Draw:
    """Draws for the `count` samples at global positions [first, first + count). Each call takes the next turn."""

    def __init__(self, *, seed: int, first: int, count: int, turn: int = 0, device: torch.device | str = "cpu") -> None:
        self.count = count
        self.turn = turn
        self.device = torch.device(device)
        self._seed = seed
        self._position_B = torch.arange(first, first + count, dtype=torch.int64, device=self.device)

    def _bits(self, elements: int) -> Tensor:
        """(B, E) int64 of 64 random bits each."""
        run = torch.tensor(_signed(self._seed * _GOLDEN + self.turn + 1), device=self.device)
        key_B = _mix(_mix(run) ^ _mix(self._position_B * _signed(_GOLDEN)))
        self.turn += 1
        element_E = torch.arange(1, elements + 1, dtype=torch.int64, device=self.device) * _signed(_GOLDEN)
        return _mix(key_B[:, None] + element_E)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float32, uniform in (0, 1): never an end, so that a logarithm is finite."""
        bits_BE = _shift_right(self._bits(math.prod(shape)), 41)  # 23 bits: exact in float32 after the half step
        return ((bits_BE.float() + 0.5) / (1 << 23)).reshape(self.count, *shape)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal: Box and Muller 1958, two numbers from each 64 bits."""
        elements = math.prod(shape)
        bits_BE = self._bits((elements + 1) // 2)
        radius = torch.sqrt(-2.0 * torch.log((_shift_right(bits_BE, 32).float() + 0.5) / _TWO_32))
        angle = (bits_BE & (_TWO_32 - 1)).float() * (2.0 * math.pi / _TWO_32)
        pair_BE = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return pair_BE[:, :elements].reshape(self.count, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(B, *shape) int64 in [0, high), for high far below 2^63."""
        return _shift_right(self._bits(math.prod(shape)), 1).remainder(high).reshape(self.count, *shape)
