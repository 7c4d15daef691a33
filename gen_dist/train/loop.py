"""The training loop of one worker: batches to losses to steps, with samples, scores and checkpoints on the way.

Phases outermost, micro-batches inside: a discriminator's step sees the whole batch before the generator moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from gen_dist.job import arithmetic
from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Clock, Ctx, Phase, Recipe
from gen_dist.recipes.randomness import Draw
from gen_dist.train import state
from gen_dist.train.averages import Averages
from gen_dist.train.collective import Team
from gen_dist.train.engines import Engines
from gen_dist.train.feed import Feed, MicroBatch, images_of_step
from gen_dist.train.ledger import Ledger
from gen_dist.train.meters import Meters
from gen_dist.train.rates import learning_rate
from gen_dist.train.report import Report
from gen_dist.train.studio import Studio

TURNS_OF_PHASE = 1 << 16  # random draws that one phase may make of one micro-batch
STEPS_BETWEEN_STOP_CHECKS = 4


class NonFiniteLossError(GenDistError):
    """A loss that is no longer a number."""


class Loop:
    """All that a run is on one worker. `run` ends with the job, or soon after `should_stop` says so anywhere."""

    def __init__(
        self,
        job: JobSpec,
        *,
        recipe: Recipe,
        engines: Engines,
        averages: Averages,
        feed: Feed,
        ledger: Ledger,
        studio: Studio,
        team: Team,
        clock: Clock,
        report: Report,
        commit: Callable[[Clock], Path | None],
        should_stop: Callable[[], bool],
    ) -> None:
        self.job, self.recipe, self.engines, self.averages = job, recipe, engines, averages
        self.feed, self.studio, self.team, self.clock = feed, studio, team, clock
        self._ledger = ledger
        self._report, self._commit, self._should_stop = report, commit, should_stop
        self._frozen = studio.frozen
        self._meters = Meters(team.mean, device=team.device, images=clock.images)

    def run(self) -> Clock:
        """Train. Returns where the run stands when it ends."""
        end = arithmetic.images_at_end(self.job)
        while self.clock.images < end and self.step():
            pass
        return self.clock

    def step(self) -> bool:
        """One step and all that is due after it. Returns whether the run is to go on."""
        job, before = self.job.train, self.clock.images
        self._learn()
        self._report("progress", images=self.clock.images)
        if self._due(before, job.log_every_images):
            self._log()
        if self._due(before, job.sample_every_images) and job.sample_every_images:
            self._sample()
        stopping = self.clock.step % STEPS_BETWEEN_STOP_CHECKS == 0 and self.team.any(self._should_stop())
        if stopping or self._due(before, job.checkpoint_every_images):
            self._commit(self.clock)
        return not stopping

    def _due(self, before_images: int, every_images: int) -> bool:
        """Whether this step crossed a multiple of `every_images`, or ended the run."""
        if self.clock.images >= arithmetic.images_at_end(self.job):
            return True
        return every_images > 0 and self.clock.images // every_images > before_images // every_images

    def _learn(self) -> None:
        waited_s = self.feed.waited_s
        batches, scratch = self._draw()
        for number, phase in enumerate(self.recipe.phases(self.clock)):
            if phase.fresh:
                batches, scratch = self._draw()
            self._phase(phase, number, batches, scratch)
        self._meters.waited(self.feed.waited_s - waited_s)
        images = images_of_step(self.recipe, self.clock, self.job.train.global_batch_images)
        self.clock = Clock(images=self.clock.images + images, step=self.clock.step + 1)

    def _draw(self) -> tuple[list[MicroBatch], list[dict[str, object]]]:
        batches = self.feed.take()
        return batches, [{} for _ in batches]

    def _phase(self, phase: Phase, number: int, batches: list[MicroBatch], scratch: list[dict[str, object]]) -> None:
        with self.engines.only(phase.group) as member:
            for part, (position, batch) in enumerate(batches):
                ctx = Ctx(
                    nets=self.engines.routes,
                    frozen=self._frozen,
                    clock=self.clock,
                    draw=Draw(
                        seed=self.job.seed,
                        first=position,
                        count=self.job.train.micro_batch_images,
                        turn=number * TURNS_OF_PHASE,
                        device=self.team.device,
                    ),
                    device=self.team.device,
                    mean=self.team.mean,
                    scratch=scratch[part],
                )
                losses = phase.loss(ctx, batch)
                self._meters.add(phase.name, losses)
                total = torch.stack(list(losses.values())).sum() / len(batches)
                member.backward(total, last=phase.step and part == len(batches) - 1)
            if phase.step:
                member.step(learning_rate(member.group, job=self.job, images=self.clock.images))
                self.averages.update(phase.group)

    def _log(self) -> None:
        metrics = self._meters.read(self.clock.images)
        for name, member in self.engines.items():
            metrics[f"rate/{name}"] = learning_rate(member.group, job=self.job, images=self.clock.images)
            norm = member.gradient_norm()
            if norm is not None:
                metrics[f"gradient_norm/{name}"] = norm
        broken = [name for name, value in metrics.items() if name.startswith("loss/") and not math.isfinite(value)]
        if broken:
            raise NonFiniteLossError(
                f"{broken[0]}={metrics[broken[0]]} after {self.clock.images} images (step {self.clock.step}): lower the"
                " learning rate under [model], or train.clip_norm; the newest checkpoint was written before this"
            )
        metrics |= self._data_metrics()
        self._report("metrics", images=self.clock.images, step=self.clock.step, metrics=metrics)

    def _data_metrics(self) -> dict[str, float]:
        """Of all workers together, since they started."""
        counts = self.feed.metrics()
        names = sorted(counts)
        local = torch.tensor([counts[name] for name in names], dtype=torch.float64, device=self.team.device)
        sums = (self.team.mean(local) * self.team.size).tolist()
        metrics = {f"data/{name}": value for name, value in zip(names, sums, strict=True)}
        return {**metrics, "data/bad_samples": float(self._ledger.check(self.clock))}

    def _sample(self) -> None:
        weights = state.model_weights(self.engines, self.averages)
        scores = self.studio.show(weights, self.clock)
        if scores:
            self._report("metrics", images=self.clock.images, step=self.clock.step, metrics=scores)
