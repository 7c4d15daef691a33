"""make_plan: a job, a kind of GPU and a number of workers -> memory, time, traffic, storage and price of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.plan.choice import recommended
from gen_dist.plan.configuration import Configuration, Outcome, Weighing, split_groups
from gen_dist.plan.duration import MFU, Setting, compute_s
from gen_dist.plan.errors import PlanError
from gen_dist.plan.gpus import Gpu
from gen_dist.plan.growth import Growth
from gen_dist.plan.stored import Storage, storage
from gen_dist.plan.trace import Model, PhaseCost

S_PER_HOUR, S_PER_DAY = 3600.0, 86400.0
STAGES = range(4)
COUNT_FROM = 0.8  # of the memory: a line through two counted sizes is off by far less than the rest


@dataclass(frozen=True)
class Asked:
    """What a plan is made for besides the job. 0: not given."""

    gpu: Gpu
    workers: int
    price_per_gpu_hour: float = 0.0
    mfu: float = 0.0
    """Share of the GPU's peak that the networks reach."""
    measured_images_per_s: float = 0.0
    """Of one such GPU training this job, instead of datasheet and MFU."""
    sample_bytes: float = 0.0
    """One sample as it is stored."""


@dataclass(frozen=True)
class Plan:
    """What a run needs and costs."""

    job: JobSpec
    asked: Asked
    mfu: dict[str, float]
    """Share of the GPU's peak, by the precisions that phases compute in."""
    parameters: dict[str, int]
    """By group."""
    outcomes: list[Outcome]
    """ZeRO 0 to 3 without and with offload, each at its best micro-batch."""
    own: Outcome
    """As the job says."""
    best: Outcome
    why: str
    storage: Storage
    assumed: dict[str, str]
    """Folders of pretrained models that are not here: what each is taken for."""

    def days(self, outcome: Outcome) -> float:
        """Of the whole run."""
        return outcome.run_s / S_PER_DAY

    def images_per_s(self, outcome: Outcome) -> float:
        """Of all workers, over the run."""
        return arithmetic.images_at_end(self.job) / outcome.run_s

    def price(self, outcome: Outcome) -> float:
        """In the money of `price_per_gpu_hour`."""
        return outcome.run_s / S_PER_HOUR * self.asked.workers * self.asked.price_per_gpu_hour

    def facts(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return {
            "job": self.job.name,
            "asked": asdict(self.asked),
            "mfu": self.mfu,
            "precision": self.job.train.precision,
            "global_batch_images": self.job.train.global_batch_images,
            "total_images": arithmetic.images_at_end(self.job),
            "parameters": self.parameters,
            "recommended": {**self._outcome_facts(self.best), "why": self.why},
            "as_the_job_says": self._outcome_facts(self.own),
            "configurations": [self._outcome_facts(outcome) for outcome in self.outcomes],
            "storage": asdict(self.storage),
            "assumed_folders": self.assumed,
        }

    def _outcome_facts(self, outcome: Outcome) -> dict[str, Any]:
        phases = {name: {**asdict(time), "total_s": time.total_s} for name, time in outcome.phases.items()}
        return {
            "name": outcome.configuration.name,
            **asdict(outcome.configuration),
            "accumulation": outcome.accumulation,
            "fits": outcome.fits,
            "largest_micro_batch_images": outcome.largest_micro_batch_images,
            "memory_bytes": {**asdict(outcome.memory), "total": outcome.memory.total},
            "phases": phases,
            "images_per_s": self.images_per_s(outcome),
            "run_s": outcome.run_s,
            "days": self.days(outcome),
            "price": self.price(outcome),
            "read_bytes_per_s": self.storage.sample_bytes * self.images_per_s(outcome),
        }


def make_plan(job: JobSpec, asked: Asked, *, model: Model | None = None, counted: bool = True) -> Plan:
    """`job` as it was checked; its own number of workers does not count. Raises: PlanError.

    `model`: of the same job, where several plans are made of it. `counted`: whether a close fit is counted itself;
    else memory is on the line through two sizes that were.
    """
    _check(job, asked)
    model = model or Model(job)
    growth = Growth(model)
    setting = Setting(
        asked.gpu,
        asked.workers,
        job.train.precision,
        job.train.zero3_persistence_elements,
        mfu={precision: asked.mfu or share for precision, share in MFU.items()},
    )
    if asked.measured_images_per_s:
        split = split_groups(Weighing(job, model, setting).stages_of_job())
        costs = growth.costs(job.train.micro_batch_images, split)
        setting = replace(setting, correction=_correction(job, model, costs, setting, asked.measured_images_per_s))
    weighing = Weighing(job, model, setting)
    outcomes = _outcomes(weighing, growth)
    best, why = recommended(outcomes, asked.gpu, workers=asked.workers)
    return Plan(
        job,
        asked,
        mfu={phase.precision: setting.mfu[phase.precision] for phase in growth.costs(1).values()},
        parameters={name: size.total for name, size in model.sizes().items()},
        outcomes=outcomes,
        own=_own(job, weighing, growth),
        best=_counted(weighing, model, best) if counted else best,
        why=why,
        storage=storage(
            job, model.recipe, model.sizes().values(), state_bytes=model.state_bytes(), sample_bytes=asked.sample_bytes
        ),
        assumed=model.assumed,
    )


def _check(job: JobSpec, asked: Asked) -> None:
    if asked.workers < 1:
        raise PlanError(f"--workers {asked.workers}: expected 1 or more; write such as --workers 8")
    one_each = job.model_copy(update={"train": job.train.model_copy(update={"micro_batch_images": 1})})
    if not arithmetic.splits(one_each, asked.workers):
        batch = job.train.global_batch_images
        fewer = max(count for count in range(1, asked.workers + 1) if batch % count == 0)
        above = -(-batch // asked.workers) * asked.workers
        raise PlanError(
            f"--workers {asked.workers}: train.global_batch_images={batch} is not a multiple of it; write --workers"
            f" {fewer}, or --set train.global_batch_images={above}"
        )


def _outcomes(weighing: Weighing, growth: Growth) -> list[Outcome]:
    """Each combination once: groups that may not go higher stay where they were."""
    found, seen = [], set()
    for offload in (False, True):
        for stage in STAGES:
            stages = weighing.stages(stage)
            key = (*stages.values(), offload)
            if key in seen or (offload and not any(stages.values())):
                continue
            seen.add(key)
            found.append(weighing.best(stages, offload=offload, growth=growth))
    return found


def _counted(weighing: Weighing, model: Model, best: Outcome) -> Outcome:
    """The recommended one; where it is a close fit, its very micro-batch is counted, and made smaller if need be."""
    chosen, largest = best.configuration, best.largest_micro_batch_images
    if best.memory.total < COUNT_FROM * weighing.setting.gpu.memory_bytes:
        return best
    split = split_groups(chosen.stages)
    while True:
        counted = weighing.outcome(chosen, model.costs(chosen.micro_batch_images, split), largest=largest)
        if counted.fits or chosen.micro_batch_images == 1:
            return counted
        chosen = replace(chosen, micro_batch_images=weighing.usable(chosen.micro_batch_images - 1))


def _own(job: JobSpec, weighing: Weighing, growth: Growth) -> Outcome:
    """As the job says; with a smaller micro-batch where its own does not divide the images of so many workers."""
    stages, micro = weighing.stages_of_job(), job.train.micro_batch_images
    if not arithmetic.splits(job, weighing.setting.workers):
        micro = weighing.usable(micro)
    costs = partial(growth.costs, split=split_groups(stages))
    largest = weighing.largest_micro_batch(weighing.states(stages, offload=False), costs)
    return weighing.outcome(Configuration(stages, False, micro), costs(micro), largest=largest)


def _correction(
    job: JobSpec, model: Model, costs: Mapping[str, PhaseCost], setting: Setting, images_per_s: float
) -> float:
    """Measured over calculated time of computing, on average over the run, at the job's micro-batch."""
    micro = job.train.micro_batch_images
    calculated_s = sum(
        kind.num_steps * sum(compute_s(costs[name], setting)[0] for name in kind.phases) for kind in model.kinds
    )
    steps_images = sum(kind.num_steps * kind.batches for kind in model.kinds) * micro
    return steps_images / images_per_s / calculated_s
