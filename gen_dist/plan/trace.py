"""Model: a recipe built without weights, whose phases are run forward and backward to see what they cost.

Tensors are torch's FakeTensors: shapes, no data, no GPU. Losses are called as gen_dist/train/loop.py calls them, with
networks as gen_dist/train/engines.py gives them to a loss, so a recipe of the catalog is planned as it stands.

Shapes: B images of a micro-batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._pytree import tree_map

from gen_dist.job.spec import JobSpec
from gen_dist.nets.pretrained import shapes_alone
from gen_dist.plan.census import StepKind, step_kinds
from gen_dist.plan.errors import PlanError
from gen_dist.plan.meter import Meter
from gen_dist.plan.states import GroupSize
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Ctx, Field, Group, Phase
from gen_dist.recipes.randomness import Draw

CPU = torch.device("cpu")
CAPTION = "a caption of six words here"


@dataclass(frozen=True)
class PhaseCost:
    """One micro-batch of one phase, forward and backward."""

    name: str
    group: str
    steps: bool
    """Whether the group's optimizer steps after it."""
    activation_bytes: int
    """The most alive at once beyond weights, gradients of weights and the batch."""
    flops: int
    moved_bytes: int
    num_kernels: int
    calls: Mapping[str, int]
    """How often each network is called: at ZeRO-3 its weights are gathered so often."""
    called_groups: tuple[str, ...]
    """Whose networks those are."""
    precision: str
    """What its networks compute in: that of the job, or fp32 where the phase wants it."""


class _Counted:
    """A network as a loss sees it: float32 in and out, as `Route` of gen_dist/train/engines.py; its calls counted."""

    def __init__(
        self, name: str, net: nn.Module, calls: Counter[str], dtype: torch.dtype, *, widened: bool = False
    ) -> None:
        """`widened`: weights of another format are copied to float32 at each call."""
        self._name, self._net, self._calls, self._dtype, self._widened = name, net, calls, dtype, widened

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._calls[self._name] += 1
        if self._widened:
            tensors = (*self._net.named_parameters(), *self._net.named_buffers())
            weights = {name: _cast(value, torch.float32) for name, value in tensors}
            return torch.func.functional_call(self._net, weights, args, kwargs)
        if self._dtype == torch.float32:
            return self._net(*args, **kwargs)
        args, kwargs = tree_map(lambda value: _cast(value, self._dtype), (args, kwargs))
        return tree_map(lambda value: _cast(value, torch.float32), self._net(*args, **kwargs))


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class Model:
    """The recipe of a job, its networks without data, and the kinds of steps that its run has."""

    def __init__(self, job: JobSpec) -> None:
        self._job = job
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._dtype = torch.bfloat16 if job.train.precision == "bf16" else torch.float32
        with self._fake, shapes_alone() as self.assumed:
            self.recipe = catalog.build(job.recipe, job.model)
            self._nets = {name: _in(self._dtype, net) for name, net in self.recipe.networks().items()}
            self._frozen = {name: net.eval().requires_grad_(False) for name, net in self.recipe.frozen().items()}
        self.groups = self.recipe.groups()
        self.kinds = step_kinds(self.recipe, job)
        self._trained = {
            group: [value for net in spec.nets for value in self._nets[net].parameters() if value.requires_grad]
            for group, spec in self.groups.items()
        }
        self._net_sizes = {
            name: GroupSize(tuple(value.numel() for value in net.parameters() if value.requires_grad), 0, average=False)
            for name, net in self._nets.items()
        }
        self._traced: dict[tuple[int, frozenset[str]], dict[str, PhaseCost]] = {}

    def sizes(self) -> dict[str, GroupSize]:
        """By group."""
        averages = self._job.train.ema_half_life_images > 0
        return {name: self._size(name, group, averages and group.average) for name, group in self.groups.items()}

    def _size(self, name: str, group: Group, average: bool) -> GroupSize:
        trained = [value.numel() for value in self._trained[name]]
        everything = sum(_numel(self._nets[net]) for net in group.nets)
        return GroupSize(tuple(trained), fixed=everything - sum(trained), average=average)

    def net_sizes(self) -> dict[str, GroupSize]:
        """By trained network."""
        return self._net_sizes

    def group_of(self, net: str) -> str:
        """The group that trains a network."""
        return next(name for name, group in self.groups.items() if net in group.nets)

    def frozen_bytes(self) -> int:
        """Networks that are used and never trained, in float32."""
        return sum(4 * _numel(net) for net in self._frozen.values())

    def state_bytes(self) -> int:
        """State of the recipe that no network holds."""
        with self._fake:
            return sum(value.numel() * value.element_size() for value in self.recipe.state_dict().values())

    def batch_bytes(self, images: int, micro_batch_images: int) -> int:
        """Of a worker's samples of a step, with images as bytes; of one micro-batch as numbers too."""
        fields = list(self.recipe.batch.values())
        floats = sum(torch.float32.itemsize * _field_bytes(field) for field in fields if field.kind == "image")
        return images * sum(map(_field_bytes, fields)) + micro_batch_images * floats

    def costs(self, micro_batch_images: int, split: Collection[str] = ()) -> dict[str, PhaseCost]:
        """Every phase of the run by name; `split`: groups at ZeRO-3. Raises: PlanError.

        A phase of full precision copies the weights of a group to fp32, unless they are split: see
        gen_dist/train/engines.py.
        """
        whole = self._costs(micro_batch_images, frozenset())
        full = [cost.called_groups for cost in whole.values() if cost.precision != self._job.train.precision]
        narrow = frozenset(split) & {group for groups in full for group in groups}
        return self._costs(micro_batch_images, narrow) if narrow else whole

    def _costs(self, micro_batch_images: int, narrow: frozenset[str]) -> dict[str, PhaseCost]:
        key = (micro_batch_images, narrow)
        if key not in self._traced:
            found: dict[str, PhaseCost] = {}
            for kind in self.kinds:
                if not found.keys() >= set(kind.phases):
                    found |= self._step(kind, micro_batch_images, narrow)
            self._traced[key] = found
        return self._traced[key]

    def _step(self, kind: StepKind, count: int, narrow: frozenset[str]) -> dict[str, PhaseCost]:
        """One micro-batch through all phases of a step, which may leave each other something in `scratch`.

        `narrow`: groups that keep the job's precision where a phase wants the full one.
        """
        calls: Counter[str] = Counter()
        routes = {name: _Counted(name, net, calls, self._dtype) for name, net in self._nets.items()}
        wide = {name: net for name, net in self._nets.items() if self.group_of(name) not in narrow}
        full_routes = dict(routes)
        if self._dtype != torch.float32:
            full_routes |= {name: _Counted(name, net, calls, self._dtype, widened=True) for name, net in wide.items()}
        scratch: dict[str, Any] = {}
        found, precision = {}, self._job.train.precision
        with self._fake:
            batch = _batch(self.recipe.batch, count)
            for phase in self.recipe.phases(kind.first):
                calls.clear()
                draw = Draw(seed=0, first=kind.first.images, count=count)
                nets = full_routes if phase.full_precision else routes
                ctx = Ctx(nets, self._frozen, kind.first, draw, CPU, scratch=scratch)
                meter = self._measured(phase, lambda phase=phase, ctx=ctx: phase.loss(ctx, batch))  # type: ignore[misc]
                found[phase.name] = PhaseCost(
                    phase.name,
                    phase.group,
                    phase.step,
                    activation_bytes=meter.peak_bytes(without=self._gradients(phase.group)),
                    flops=meter.flops,
                    moved_bytes=meter.moved_bytes,
                    num_kernels=meter.num_kernels,
                    calls=dict(calls),
                    called_groups=tuple(dict.fromkeys(map(self.group_of, calls))),
                    precision="fp32" if phase.full_precision and wide.keys() & calls.keys() else precision,
                )
                for value in self._trained[phase.group]:
                    value.grad = None
        return found

    def _measured(self, phase: Phase, loss: Callable[[], Mapping[str, Tensor]]) -> Meter:
        for group, trained in self._trained.items():
            for value in trained:
                value.requires_grad_(group == phase.group)
        try:
            with Meter() as meter:
                torch.stack(list(loss().values())).sum().backward()
        except DynamicOutputShapeException as error:
            raise PlanError(
                f"recipe {self._job.recipe}, phase {phase.name}: a shape depends on the values of a tensor ({error});"
                " write it with masks instead, such as torch.where, or it cannot be planned"
            ) from None
        return meter

    def _gradients(self, group: str) -> Sequence[Tensor]:
        return [value.grad for value in self._trained[group] if value.grad is not None]


def _in(dtype: torch.dtype, net: nn.Module) -> nn.Module:
    """The network in another number format. `net.to` swaps tensors in place, which those without data refuse."""
    made: dict[int, nn.Parameter] = {}  # a parameter that two modules share stays one
    for module in net.modules() if dtype != torch.float32 else ():
        for name, value in module.named_parameters(recurse=False):
            if value.is_floating_point():
                made.setdefault(id(value), nn.Parameter(value.detach().to(dtype), requires_grad=value.requires_grad))
                setattr(module, name, made[id(value)])
        for name, held in module.named_buffers(recurse=False):
            setattr(module, name, _cast(held, dtype))
    return net


def _numel(net: nn.Module) -> int:
    return sum(value.numel() for value in (*net.parameters(), *net.buffers()))


def _batch(fields: Mapping[str, Field], count: int) -> dict[str, Any]:
    """What gen_dist/train/feed.py gives to a loss, without data."""
    batch: dict[str, Any] = {"weight": torch.ones(count)}
    for name, field in fields.items():
        if field.kind == "caption":
            batch[name] = [CAPTION] * count
        elif field.kind == "label":
            batch[name] = torch.zeros(count, dtype=torch.int64)
        else:
            batch[name] = torch.zeros(count, *field.shape, dtype=_dtype(field))
    return batch


def _dtype(field: Field) -> torch.dtype:
    return getattr(torch, field.dtype) if field.kind == "array" else torch.float32


def _field_bytes(field: Field) -> int:
    if field.kind == "caption":
        return 0  # text stays with the processor
    if field.kind == "label":
        return 8
    return math.prod(field.shape) * (1 if field.kind == "image" else _dtype(field).itemsize)
