"""The training loop of one worker: batches to losses to steps, with samples, scores and checkpoints on the way.

Phases outermost, micro-batches inside: a discriminator's step sees the whole batch before the generator moves.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Clock, Ctx, Phase, Recipe
from gen_dist.recipes.randomness import Draw
from gen_dist.train import state
from gen_dist.train.averages import Averages
from gen_dist.train.collective import Team
from gen_dist.train.engines import Engines, GroupEngine
from gen_dist.train.feed import Feed, MicroBatch, as_floats, images_of_step
from gen_dist.train.guard import DivergenceError, Guard, NonFiniteLossError, RollbackWanted, names, poisoned
from gen_dist.train.ledger import Ledger
from gen_dist.train.meters import Meters
from gen_dist.train.notices import Notice
from gen_dist.train.rates import learning_rate
from gen_dist.train.report import Report
from gen_dist.train.studio import Studio
from gen_dist.train.watchdog import Unwatched, Watchdog
from gen_dist.train.wiring import check_wiring

TURNS_OF_PHASE = 1 << 16  # random draws that one phase may make of one micro-batch
LOSS = "loss/"  # in the names of what is logged
LOWER = (
    "lower the learning rate under [model], or train.clip_norm, or set train.nonfinite.policy; the newest checkpoint"
    " was written before this"
)


class Loop:
    """All that a run is on one worker. `run` ends with the job, or soon after `notices` says so anywhere."""

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
        commit: Callable[[Clock, Mapping[str, float]], None],
        notices: Callable[[], Notice] = Notice,
        guard: Guard | None = None,
        meters: Meters | None = None,
        watchdog: Watchdog | Unwatched | None = None,
    ) -> None:
        self.job, self.recipe, self.engines, self.averages = job, recipe, engines, averages
        self.feed, self.studio, self.team, self.clock = feed, studio, team, clock
        self._ledger = ledger
        self._report, self._commit, self._notices = report, commit, notices
        self._guard = guard or Guard(job.train.nonfinite, divergence=job.train.divergence)
        self._watchdog = watchdog or Unwatched()
        self._frozen = studio.frozen
        self._losses: dict[str, list[tuple[str, Mapping[str, Tensor]]]] = {}  # by group, of the step to come
        self._meters = meters or Meters(team, images=clock.images)
        self._wired: set[str] = set()  # phases whose first loss was looked at

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
        scores: Mapping[str, float] = {}
        if self._due(before, job.sample_every_images) and job.sample_every_images:
            self._watchdog.enter("samples")
            scores = self._sample()
        notice = self._notices()
        if notice.save:
            self._report("notice", images=self.clock.images, why=notice.why)
        if notice.stop or notice.save or self._due(before, job.checkpoint_every_images):
            self._watchdog.enter("checkpoint")
            self._must_be_finite()
            self._commit(self.clock, scores)
        return not notice.stop

    def _due(self, before_images: int, every_images: int) -> bool:
        """Whether this step crossed a multiple of `every_images`, or ended the run."""
        if self.clock.images >= arithmetic.images_at_end(self.job):
            return True
        return every_images > 0 and self.clock.images // every_images > before_images // every_images

    def _learn(self) -> None:
        self._watchdog.enter("step")
        waited_s, started_s, num_dropped = self.feed.waited_s, time.perf_counter(), self._guard.num_dropped
        batches, scratch = self._draw()
        for number, phase in enumerate(self.recipe.phases(self.clock)):
            if phase.fresh:
                batches, scratch = self._draw()
            self._phase(phase, number, batches, scratch)
        if self._guard.num_dropped == num_dropped:
            self._guard.made()
        self._meters.waited(self.feed.waited_s - waited_s)
        self._watchdog.stepped(time.perf_counter() - started_s - (self.feed.waited_s - waited_s))
        images = images_of_step(self.recipe, self.clock, self.job.train.global_batch_images)
        self.clock = Clock(images=self.clock.images + images, step=self.clock.step + 1)

    def _draw(self) -> tuple[list[MicroBatch], list[dict[str, object]]]:
        self._watchdog.enter("data")
        batches = self.feed.take()
        self._watchdog.enter("step")
        return batches, [{} for _ in batches]

    def _phase(self, phase: Phase, number: int, batches: list[MicroBatch], scratch: list[dict[str, object]]) -> None:
        with self.engines.only(phase.group) as member:
            for part, (position, batch) in enumerate(batches):
                ctx = Ctx(
                    nets=self.engines.full_routes if phase.full_precision else self.engines.routes,
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
                    rows=self.team.rows,
                    scratch=scratch[part],
                )
                losses = phase.loss(ctx, as_floats(batch))
                detached = {name: value.detach() for name, value in losses.items()}
                self._losses.setdefault(phase.group, []).append((phase.name, detached))
                total = torch.stack(list(losses.values())).sum() / len(batches)
                if phase.name not in self._wired:
                    check_wiring(total, member.parameters.values(), phase=phase.name, group=phase.group)
                    self._meters.put_first(phase.name, losses)
                    self._wired.add(phase.name)
                member.backward(poisoned(total), last=phase.step and part == len(batches) - 1)
            if phase.step:
                self._move(member, phase)

    def _move(self, member: GroupEngine, phase: Phase) -> None:
        """The optimizer's step, unless its gradient is no good on any worker."""
        rate = learning_rate(member.group, job=self.job, images=self.clock.images)
        objection = member.step(rate, judge=partial(self._guard.objection, phase.name))
        losses = self._losses.pop(phase.group)
        if objection:
            self._drop(phase, objection, losses)
            return
        self.averages.update(phase.group)
        for name, values in losses:
            self._meters.add(name, values)

    def _drop(self, phase: Phase, objection: str, losses: list[tuple[str, Mapping[str, Tensor]]]) -> None:
        """What the job wants of a step that was not made. Collective. Raises: NonFiniteLossError, RollbackWanted."""
        broken = [
            f"{name} at rank {rank}" for rank, found in enumerate(self.team.gather(names(losses))) for name in found
        ]
        images, spec = self.clock.images, self._guard.spec
        why = "; ".join([f"phase {phase.name}: {objection}", *broken[:3]])
        where = f"after {images} images (step {self.clock.step}): {why}"
        if spec.policy == "stop":
            raise NonFiniteLossError(f"{where}: {LOWER}")
        if spec.policy == "rollback":
            end = images + images_of_step(self.recipe, self.clock, self.job.train.global_batch_images)
            raise RollbackWanted(spec.rollback_checkpoints, end + self._ledger.shift, images, why)
        too_many = self._guard.dropped()
        facts = {"phase": phase.name, "why": why, "total": self._guard.num_dropped}
        self._report("skipped", images=images, step=self.clock.step, **facts)
        if too_many:
            raise NonFiniteLossError(
                f"{where}: more than train.nonfinite.max_skips = {spec.max_skips} in a row; {LOWER}"
            )

    def _must_be_finite(self) -> None:
        """No checkpoint of weights that are no numbers, also where no gradient is looked at. Collective."""
        if self.team.any(not self._meters.finite()):
            self._log()

    def _log(self) -> None:
        metrics = self._meters.read(self.clock.images)
        for name, member in self.engines.items():
            metrics[f"rate/{name}"] = learning_rate(member.group, job=self.job, images=self.clock.images)
            norm = member.gradient_norm()
            if norm is not None:
                metrics[f"gradient_norm/{name}"] = norm
        broken = [name for name, value in metrics.items() if name.startswith(LOSS) and not math.isfinite(value)]
        if broken:
            raise NonFiniteLossError(
                f"{broken[0]}={metrics[broken[0]]} after {self.clock.images} images (step {self.clock.step}): {LOWER}"
            )
        metrics |= self._data_metrics()
        if self._guard.spec.policy == "skip":
            metrics["dropped_steps"] = float(self._guard.num_dropped)
        spent = self._watchdog.spent()
        self._report("metrics", images=self.clock.images, step=self.clock.step, metrics=metrics, spent=spent)
        self._check_course({key.removeprefix(LOSS): value for key, value in metrics.items() if key.startswith(LOSS)})

    def _check_course(self, means: Mapping[str, float]) -> None:
        """What the job wants of a run that is lost. Raises: DivergenceError, RollbackWanted, on all workers alike."""
        images, guard = self.clock.images, self._guard
        why = guard.verdict(self.recipe.diagnosis(means), images=images)
        if why and guard.divergence.policy == "rollback":
            raise RollbackWanted(guard.spec.rollback_checkpoints, images + self._ledger.shift, images, why)
        if why and guard.divergence.policy == "stop":
            raise DivergenceError(f"after {images} images (step {self.clock.step}): {why}")
        if why:
            self._report("warning", text=f"after {images:,} images: {why}", about="divergence")

    def _data_metrics(self) -> dict[str, float]:
        """Of all workers together, since they started."""
        counts = self.feed.metrics()
        names = sorted(counts)
        local = torch.tensor([counts[name] for name in names], dtype=torch.float64, device=self.team.device)
        sums = (self.team.mean(local) * self.team.size).tolist()
        metrics = {f"data/{name}": value for name, value in zip(names, sums, strict=True)}
        return {**metrics, "data/bad_samples": float(self._ledger.check(self.clock))}

    def _sample(self) -> Mapping[str, float]:
        """A grid; the held-out scores."""
        weights = state.model_weights(self.engines, self.averages)
        scores = self.studio.show(weights, self.clock)
        if scores:
            self._report("metrics", images=self.clock.images, step=self.clock.step, metrics=scores)
        return scores
