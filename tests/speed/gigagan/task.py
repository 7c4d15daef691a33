"""What both sides do, and what they say of it. Imports nothing of either."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

IMAGE_PX = 32


@dataclass(frozen=True)
class Task:
    """Steps of one discriminator and one generator each, with and without the penalty."""

    batch_images: int = 8
    num_threads: int = 2
    generator_channels: int = 16
    """At 32 px; doubled with each halving of the side."""
    discriminator_channels: int = 32
    start_channels: int = 512
    """Of theirs, what the image at 4 px starts from; ours starts from the channels of 4 px."""
    num_steps: int = 3
    """Of each kind; one more before them is not counted."""


@dataclass(frozen=True)
class Measured:
    """Of one process."""

    plain_s: float
    """The shortest D + G step."""
    penalised_s: float
    """The same with the penalty."""
    peak_bytes: int
    """The most memory that the process ever held, imports included."""
    parameters: tuple[int, int]
    """Of the generator and of the discriminator."""

    def step_s(self, *, penalty_every: int) -> float:
        """Of one D + G step, where every so many have the penalty."""
        return self.plain_s + (self.penalised_s - self.plain_s) / penalty_every

    def facts(self) -> dict[str, object]:
        """As JSON can hold it."""
        return asdict(self)


def measure(task: Task, step: Callable[[bool], object], *, parameters: tuple[int, int]) -> Measured:
    """`step(penalised)` is one D + G step."""
    spent: dict[bool, list[float]] = {False: [], True: []}
    for number in range(1 + task.num_steps):
        for penalised, times in spent.items():
            start_s = time.perf_counter()
            step(penalised)
            if number:
                times.append(time.perf_counter() - start_s)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Measured(min(spent[False]), min(spent[True]), peak_bytes, parameters)


def pictures(task: Task) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1], the same for both sides."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(task.batch_images, 3, IMAGE_PX, IMAGE_PX, generator=generator) * 2.0 - 1.0
