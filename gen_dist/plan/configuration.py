"""One way to train the job: ZeRO stages of its groups, offload, a micro-batch; what it needs and how fast it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from gen_dist.job import arithmetic
from gen_dist.job.settings import compared_images, zero_max
from gen_dist.job.spec import JobSpec
from gen_dist.plan.duration import PhaseTime, Setting, phase_time, run_s
from gen_dist.plan.growth import Growth
from gen_dist.plan.memory import Memory, gpu_memory
from gen_dist.plan.states import States, group_states
from gen_dist.plan.trace import Model, PhaseCost

LARGEST_MICRO_BATCH_IMAGES = 1 << 20

Costs = Callable[[int], Mapping[str, PhaseCost]]
"""Of all phases by name, for a micro-batch of so many images."""


def split_groups(stages: Mapping[str, int]) -> frozenset[str]:
    """Groups whose weights are split over the workers."""
    return frozenset(group for group, stage in stages.items() if stage == 3)


@dataclass(frozen=True)
class Configuration:
    """What can be chosen."""

    stages: Mapping[str, int]
    """ZeRO stage of each engine."""
    offload: bool
    """Optimizer states in the memory of the machine."""
    micro_batch_images: int

    @property
    def name(self) -> str:
        """Such as `ZeRO 2`, `ZeRO 3/2` where groups differ, `ZeRO 1, offload`."""
        different = list(dict.fromkeys(self.stages.values()))
        return f"ZeRO {'/'.join(map(str, different))}{', offload' if self.offload else ''}"


@dataclass(frozen=True)
class Outcome:
    """What follows from a configuration."""

    configuration: Configuration
    accumulation: int
    memory: Memory
    fits: bool
    largest_micro_batch_images: int
    """That fits; 0 where not even one image does."""
    phases: Mapping[str, PhaseTime]
    run_s: float


class Weighing:
    """Outcomes of configurations of one job on one kind of GPU."""

    def __init__(self, job: JobSpec, model: Model, setting: Setting) -> None:
        self._job, self._model, self.setting = job, model, setting
        self._sizes = model.sizes()
        self._net_sizes = model.net_sizes()
        self._net_groups = {net: model.group_of(net) for net in self._net_sizes}
        self._images = job.train.global_batch_images // setting.workers
        self._together = compared_images(model.recipe.settings)

    def stages(self, stage: int) -> dict[str, int]:
        """Of the engines where every group is at `stage`, or as near to it as it may go."""
        highest = zero_max(self._model.recipe.settings)
        return self._engine_stages({name: min(stage, highest.get(name, stage)) for name in self._sizes})

    def stages_of_job(self) -> dict[str, int]:
        """As the job says."""
        return self._engine_stages({name: arithmetic.zero_stage(self._job, name) for name in self._sizes})

    def _engine_stages(self, stages: Mapping[str, int]) -> dict[str, int]:
        wanted = self._job.model_copy(update={"train": self._job.train.model_copy(update={"zero_stages": stages})})
        return {name: arithmetic.engine_stage(wanted, name, self.setting.workers) for name in stages}

    def states(self, stages: Mapping[str, int], *, offload: bool) -> dict[str, States]:
        """By group."""
        return {
            name: group_states(
                size,
                stage=stages[name],
                workers=self.setting.workers,
                precision=self.setting.precision,
                persistence_elements=self.setting.persistence_elements,
                offload=offload and stages[name] > 0,
            )
            for name, size in self._sizes.items()
        }

    def memory(self, states: Mapping[str, States], costs: Mapping[str, PhaseCost], micro_batch_images: int) -> Memory:
        """With the whole batch of a step on the GPU, as gen_dist/train/feed.py puts it there."""
        batch = self._model.batch_bytes(self._images, micro_batch_images)
        return gpu_memory(states, costs, frozen_bytes=self._model.frozen_bytes(), batch_bytes=batch)

    def largest_micro_batch(self, states: Mapping[str, States], costs: Costs) -> int:
        """In images; by bisection, as memory grows with it. 0: not even one image fits."""
        low, high = 0, LARGEST_MICRO_BATCH_IMAGES
        while low < high:
            middle = (low + high + 1) // 2
            if self.memory(states, costs(middle), middle).total <= self.setting.gpu.memory_bytes:
                low = middle
            else:
                high = middle - 1
        return low

    def usable(self, largest: int) -> int:
        """The largest micro-batch up to `largest` that divides the images of a worker, 1 at least.

        Where the recipe compares neighbours, one that holds all of them if there is such.
        """
        divisors = [size for size in range(1, min(largest, self._images) + 1) if self._images % size == 0] or [1]
        whole = [size for size in divisors if size % self._together == 0]
        return max(whole or divisors)

    def best(self, stages: Mapping[str, int], *, offload: bool, growth: Growth) -> Outcome:
        """At the largest usable micro-batch that fits; at 1 image where nothing does."""
        costs = partial(growth.costs, split=split_groups(stages))
        largest = self.largest_micro_batch(self.states(stages, offload=offload), costs)
        micro = self.usable(largest)
        return self.outcome(Configuration(dict(stages), offload, micro), costs(micro), largest=largest)

    def outcome(self, chosen: Configuration, costs: Mapping[str, PhaseCost], *, largest: int) -> Outcome:
        """`costs`: of the phases at the configuration's micro-batch."""
        states = self.states(chosen.stages, offload=chosen.offload)
        memory = self.memory(states, costs, chosen.micro_batch_images)
        accumulation = self._images // chosen.micro_batch_images
        times = {name: self._time(cost, chosen.stages, states, accumulation) for name, cost in costs.items()}
        return Outcome(
            chosen,
            accumulation=accumulation,
            memory=memory,
            fits=memory.total <= self.setting.gpu.memory_bytes,
            largest_micro_batch_images=largest,
            phases=times,
            run_s=run_s(self._model.kinds, times),
        )

    def _time(
        self, cost: PhaseCost, stages: Mapping[str, int], states: Mapping[str, States], accumulation: int
    ) -> PhaseTime:
        return phase_time(
            cost,
            self.setting,
            stages=stages,
            sizes=self._sizes,
            net_groups=self._net_groups,
            net_sizes=self._net_sizes,
            states=states,
            accumulation=accumulation,
        )
