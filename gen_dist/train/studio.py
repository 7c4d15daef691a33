"""Samples and held-out scores in the middle of a run: each worker draws a part, the leading one lays out the grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gen_dist.data.sequential import SequentialStream
from gen_dist.data.stream import Stream
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.sample.grid import png, sample_grid
from gen_dist.sample.model import Model, to_uint8
from gen_dist.train.collective import Team
from gen_dist.train.feed import to_device
from gen_dist.train.report import Report

DEFAULT_SAMPLES = 16
HELDOUT_IMAGES = 128  # measured at each grid, over all workers


class Studio:
    """Draws the job's prompts from the weights of the moment, always from the same noise, so that grids compare."""

    def __init__(
        self,
        job: JobSpec,
        *,
        recipe: Recipe,
        frozen: Mapping[str, Callable[..., Any]],
        team: Team,
        train: Stream | SequentialStream,
        heldout: Stream | SequentialStream | None,
        folder: Path,
        report: Report,
    ) -> None:
        self._job, self._recipe, self._team = job, recipe, team
        self.frozen = frozen
        self._heldout, self._folder, self._report = heldout, folder, report
        shown = heldout if recipe.enlarges_px and heldout is not None else train
        self._prompts, self._captions = self._choose(shown)
        self._small = self._shrunk(shown)

    def _choose(self, stream: Stream | SequentialStream) -> tuple[Sequence[str], Sequence[str] | None]:
        """The prompts, and the captions to print below the drawings: none where the recipe reads none."""
        if self._job.train.prompts:
            return self._job.train.prompts, self._job.train.prompts
        bucket_batch = stream.order.plan.bucket_batch if isinstance(stream, Stream) else 0
        count = min(DEFAULT_SAMPLES, bucket_batch or DEFAULT_SAMPLES)  # a batch is of one size
        captions = stream.batch(0, count).get("caption")
        if captions is not None:
            return list(captions), list(captions)
        return [""] * DEFAULT_SAMPLES, None

    def _shrunk(self, stream: Stream | SequentialStream) -> np.ndarray | None:
        """What an upsampler enlarges for the prompts: images of data, small; None for other recipes."""
        side = self._recipe.enlarges_px
        if not side:
            return None
        image = to_device(stream.batch(0, len(self._prompts)), torch.device("cpu"))["image"]
        return to_uint8(torch.nn.functional.adaptive_avg_pool2d(image, side))

    def show(self, weights: Mapping[str, Tensor], clock: Clock) -> dict[str, float]:
        """Write and report the grid; return the held-out scores. Collective."""
        model = Model.from_weights(self._recipe, weights, device=self._team.device, frozen=self.frozen)
        share = -(-len(self._prompts) // self._team.size)
        first = self._team.rank * share
        own = self._prompts[first : first + share]
        small = None if self._small is None else self._small[first : first + share]
        drawn = model.draw(own, seed=self._job.seed, first=first, images=small) if own else None
        parts = [part for part in self._team.gather(drawn) if part is not None]
        if self._team.leads:
            self._write(np.concatenate(parts), clock)
        return self._score(model)

    def _write(self, images: np.ndarray, clock: Clock) -> None:
        data = png(sample_grid(images, self._captions))
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"images-{clock.images:012d}.png"
        path.write_bytes(data)
        self._report("samples", images=clock.images, path=str(path), png=data)

    def _score(self, model: Model) -> dict[str, float]:
        if self._heldout is None:
            return {}
        size = self._job.train.micro_batch_images
        sums: dict[str, Tensor] = {}
        readable = torch.zeros((), device=self._team.device)
        wanted = min(HELDOUT_IMAGES, self._heldout.num_samples or HELDOUT_IMAGES)
        rounds = max(1, wanted // (size * self._team.size))
        for part in range(rounds):
            first = (part * self._team.size + self._team.rank) * size
            batch = to_device(self._heldout.batch(first, size), self._team.device)
            scores = self._recipe.evaluate(model.context(seed=self._job.seed, first=first, count=size), batch)
            readable = readable + batch["weight"].sum()
            for name, score_B in scores.items():
                sums[name] = sums.get(name, torch.zeros_like(readable)) + (batch["weight"] * score_B).sum()
        names = sorted(sums)
        share, *means = self._team.mean(torch.stack([readable, *(sums[name] for name in names)])).tolist()
        return {f"heldout/{name}": value / share for name, value in zip(names, means, strict=True)} if share else {}
