"""What a run measures about itself between two log lines: losses by name, rates, speed, waiting and memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from gen_dist.train.collective import Team


class LossSoFar(TypedDict):
    """One loss since the last log line, as a checkpoint keeps it."""

    count: float
    """Micro-batches of each worker."""
    sums: Sequence[float]
    """Over them, by rank."""


class Meters:
    """Sums on the device, read once a log line: a loss that is read every step would wait for the GPU every step.

    `kept` is what the checkpoint kept that the run goes on from: a line of which a part was before it says what it
    would have said without the interruption. By the same number of workers each goes on with its own sums, bit for
    bit; by another number they share them out.
    """

    def __init__(self, team: Team, *, images: int, kept: Mapping[str, LossSoFar] | None = None) -> None:
        self._team = team
        self._descended: set[str] = set()
        self._start(images)
        for name, loss in (kept or {}).items():
            sums = loss["sums"]
            same = len(sums) == team.size
            own = sums[team.rank] if same else sum(sums) / team.size
            self._sums[name] = torch.tensor(own, dtype=torch.float32, device=team.device)
            self._counts[name] = loss["count"] if same else loss["count"] * len(sums) / team.size

    def _start(self, images: int) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, float] = {}
        self._since_images = images
        self._since_s = time.perf_counter()
        self._wait_s = 0.0

    def put_first(self, phase: str, losses: Mapping[str, Tensor]) -> None:
        """Of the losses of a phase, those with a gradient: there is not room for all where a person looks."""
        self._descended |= {f"{phase}/{name}" for name, value in losses.items() if value.requires_grad}

    def add(self, phase: str, losses: Mapping[str, Tensor]) -> None:
        """One micro-batch of a phase."""
        for name, value in losses.items():
            key = f"{phase}/{name}"
            self._sums[key] = self._sums.get(key, 0.0) + value.detach().float()
            self._counts[key] = self._counts.get(key, 0) + 1

    def finite(self) -> bool:
        """Whether every loss of this worker since the last reading is a number."""
        values = list(self._sums.values())
        return not values or bool(torch.isfinite(torch.stack(values)).all())

    def waited(self, seconds: float) -> None:
        """Time that this worker stood still for data."""
        self._wait_s += seconds

    def state(self) -> dict[str, LossSoFar]:
        """What a checkpoint keeps. Collective."""
        names = list(self._sums)
        own = torch.stack([self._sums[name] for name in names]).tolist() if names else []
        by_rank = self._team.gather(own)
        return {
            name: LossSoFar(count=self._counts[name], sums=[sums[place] for sums in by_rank])
            for place, name in enumerate(names)
        }

    def read(self, images: int) -> dict[str, float]:
        """Metrics since the last reading, averaged over all workers (a collective call), and a fresh start."""
        names = sorted(self._sums, key=lambda name: (name not in self._descended, name))
        wait_share = self._wait_s / (time.perf_counter() - self._since_s)
        values = [self._sums[name] / self._counts[name] for name in names]
        local = torch.stack([*values, torch.tensor(wait_share, device=self._team.device)])
        averaged = self._team.mean(local).tolist()
        elapsed_s = time.perf_counter() - self._since_s  # after all that a GPU still had to do
        metrics = {f"loss/{name}": value for name, value in zip(names, averaged, strict=False)}
        metrics["speed/images_per_s"] = (images - self._since_images) / elapsed_s
        metrics["speed/data_wait_share"] = averaged[-1]
        metrics |= memory()
        self._start(images)
        return metrics


def memory() -> dict[str, float]:
    """Largest memory of this process so far, in bytes; and of its GPU where it has one."""
    metrics = {"memory/process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}
    if torch.cuda.is_available():
        metrics["memory/gpu_peak_bytes"] = float(torch.cuda.max_memory_allocated())
    return metrics
