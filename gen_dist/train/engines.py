"""One DeepSpeed engine for each group of networks, and the one rule that makes several engines in a process right.

The rule (each line was paid for: DeepSpeed issues #399, #4923 and #1229 are what happens without it):

1. A loss calls raw modules. An engine does backward, the accumulation boundary and the step, nothing else: its forward
   hooks would start a gradient reduction inside any `autograd.grad` (a gradient penalty) that crosses its output.
2. While a phase runs, the parameters of every other group are frozen, or its gradients would leak into their next step.
3. A group on ZeRO-3 is called through its engine, which gathers the weights that the raw module no longer has. A group
   whose phase differentiates twice therefore stays at ZeRO 2 or lower (`Settings.zero_max`); one that does not is
   refused where a loss asks for a gradient.
4. `gradient_clipping` is always written out: DeepSpeed clips at 1.0 where the key is absent. At stage 0 in fp32 it is 0
   and we clip: DeepSpeed would not tell the norm, and asks the device for that of each parameter.
5. Losses are divided by the accumulation here, and DeepSpeed is told of none, so that a phase may own its boundary.
6. ZeRO-3's gradient buffers are emptied after each step. DeepSpeed overwrites them in a step's first backward only, so
   a parameter that this one does not reach (another phase's, another network's) would keep its gradient of an older
   step.
7. The empty step that DeepSpeed makes when it wraps an optimizer (ZeRO 0 in bf16) is taken back. It would put Adam's
   bias correction a step ahead, which nearly halves the first step, and let weights decay once too often.
8. A step that may not be made is dropped where DeepSpeed calls our optimizer: all that it does before and after is that
   of every step, so that no buffer keeps a gradient, and the weights that it hands round are those it had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Group
from gen_dist.train.wiring import WiringError

NEVER_PRINT_STEPS = 1 << 40
BUCKET_ELEMENTS = 500_000_000  # DeepSpeed's own: gradients that are reduced at once, at the most

Judge = Callable[[float], str]
"""Why a step whose gradient has this norm may not be made; empty where it may. Equal on all workers."""


class GroupBox(nn.Module):
    """The networks of one group behind one forward, so that one engine can hold several."""

    def __init__(self, nets: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(dict(nets))

    def forward(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call the network `name`."""
        return self.nets[name](*args, **kwargs)


class Route:
    """A network as a loss sees it: float32 in and out, whatever the precision and the ZeRO stage."""

    def __init__(
        self,
        name: str,
        net: nn.Module,
        *,
        member: GroupEngine | None = None,
        dtype: torch.dtype = torch.float32,
        widened: bool = False,
    ) -> None:
        """`widened`: weights of another format are copied to float32 at each call, and learn through the copies."""
        self._name = name
        self._net = net
        self._member = member
        self._dtype = dtype
        self._widened = widened

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the raw module, or at ZeRO-3 its engine."""
        if self._dtype != torch.float32:
            args, kwargs = tree_map(self._narrow, (args, kwargs))
        if self._widened:
            weights = {name: self._widen(value) for name, value in _tensors(self._net)}
            result = torch.func.functional_call(self._net, weights, args, kwargs)
        elif self._member is None:
            result = self._net(*args, **kwargs)
        else:
            result = tree_map(self._watched, self._member.engine(self._name, *args, **kwargs))
        return result if self._dtype == torch.float32 else tree_map(self._widen, result)

    def _watched(self, value: Any) -> Any:
        assert self._member is not None
        if isinstance(value, Tensor) and value.requires_grad:
            value.register_hook(self._member.check_in_backward)
        return value

    def _narrow(self, value: Any) -> Any:
        return value.to(self._dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    def _widen(self, value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters()
    yield from net.named_buffers()


class Backward:
    """Whether an engine of this process is in its backward: gradients at any other time are those of a loss."""

    under_way = False


class GroupEngine:
    """The engine of one group with its fp32 weights and optimizer state, which checkpoints and averages read."""

    def __init__(
        self, name: str, group: Group, nets: Mapping[str, nn.Module], job: JobSpec, *, backward: Backward
    ) -> None:
        self.name = name
        self.group = group
        self._backward = backward
        self.stage = arithmetic.engine_stage(job, name, dist.get_world_size())
        self.box = GroupBox(nets)
        self.parameters = _by_decay(group, {name: p for name, p in self.box.named_parameters() if p.requires_grad})
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=self.box,
            model_parameters=list(self.parameters.values()),
            optimizer=torch.optim.AdamW(
                _param_groups(group, self.parameters),
                lr=group.learning_rate,
                betas=group.betas,
                eps=group.eps,
                fused=True,
            ),
            config=engine_config(job, self.stage, num_parameters=sum(p.numel() for p in self.parameters.values())),
            dist_init_required=False,
        )
        if hasattr(self.optimizer, "fp32_groups"):  # rule 7
            self.optimizer.optimizer.state.clear()
            for masters, weights in zip(self.optimizer.fp32_groups, self.optimizer.fp16_groups, strict=True):
                for master, weight in zip(masters, weights, strict=True):
                    master.data.copy_(weight.data)
        self._clip_norm = job.train.clip_norm
        self._plain = isinstance(self.optimizer, torch.optim.Optimizer)  # stage 0 in fp32: DeepSpeed wraps nothing
        self._wants_norm = self._clip_norm > 0 or job.train.nonfinite.policy != "stop" or _has_spikes(job)
        self._norm: float | None = None
        self._judge: Judge = lambda norm: ""
        self._objection: str | None = None
        self.before_change: Callable[[], object] = lambda: None
        """Called before weights, moments or averages change: whoever still reads them finishes."""
        self._let_steps_be_dropped()
        # DeepSpeed would copy all gradients to a buffer, reduce it over one worker, and copy them back
        self._alone = self.stage == 0 and self.engine.dp_world_size == 1
        self.num_parameters = sum(getattr(p, "ds_numel", p.numel()) for p in self.parameters.values())

    def freeze(self, frozen: bool) -> None:
        """Switch gradients of the whole group off or on (rule 2)."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(not frozen)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradients of `loss`; `last` marks the micro-batch after which the step comes."""
        self.engine.set_gradient_accumulation_boundary(last)
        self._backward.under_way = True
        try:
            with self.engine.no_sync() if self._alone else nullcontext():
                self.engine.backward(loss)
        finally:
            self._backward.under_way = False
        if self._alone and last:
            for parameter in self.parameters.values():
                if parameter.grad is None:  # not reached: a gradient of 0 as at every other stage, or Adam would pause
                    parameter.grad = torch.zeros_like(parameter)

    def check_in_backward(self, _: Tensor) -> None:
        """Called as a gradient comes to a network of this group at ZeRO-3. Raises: WiringError, see rule 3."""
        if not self._backward.under_way:
            raise WiringError(
                f"group {self.name}: a loss differentiates through its networks, which ZeRO-3 cannot; set"
                f" train.zero_stages.{self.name} = 2, and zero_max of the recipe's settings to {{{self.name!r}: 2}},"
                " so that `gen-dist check` says so"
            )

    def step(self, learning_rate: float, *, judge: Judge = lambda norm: "") -> str:
        """One optimizer step at `learning_rate`, unless `judge` objects; gradients are zero afterwards either way.

        Returns the objection: empty where the step was made.
        """
        for param_group in self.optimizer.param_groups:
            param_group["lr"] = learning_rate
        self._judge, self._objection = judge, None
        if self._plain:
            self._norm = self._clipped() if self._wants_norm else None
        self.engine.step()
        if self.stage == 3:
            self.optimizer.grad_partitions_flat_buffer.zero_()  # rule 6
        if self._objection is None:  # DeepSpeed did not come to our optimizer: it found the norm to be no number
            self._objection = judge(math.inf)
        return self._objection

    def gradient_norm(self) -> float | None:
        """L2 norm of the last step's gradient before clipping, where one was computed."""
        norm = self._norm if self._plain else self.engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def _clipped(self) -> float:
        """Scale the gradients down to `clip_norm`; their norm before."""
        own = list(self.parameters.values())
        gradients = [parameter.grad for parameter in own if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._clip_norm > 0:
            torch.nn.utils.clip_grads_with_norm_(own, self._clip_norm, norm)
        return float(norm)

    def _let_steps_be_dropped(self) -> None:
        """Rule 8. ZeRO-3 makes its step in several parts: they share one verdict."""
        client = self.optimizer if self._plain else self.optimizer.optimizer
        make = client.step

        def step(*args: Any, **kwargs: Any) -> Any:
            if self._objection is None:
                norm = self.gradient_norm() if self._plain else self.optimizer._global_grad_norm
                self._objection = "" if norm is None else self._judge(float(norm))
            if self._objection:
                return None
            self.before_change()
            return make(*args, **kwargs)

        client.step = step


def _by_decay(group: Group, parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """The parameters in the order in which the optimizer has them: those of one weight decay side by side."""
    decays = list(dict.fromkeys(map(group.decay_of, parameters)))
    return {name: parameters[name] for decay in decays for name in parameters if group.decay_of(name) == decay}


def _param_groups(group: Group, parameters: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
    found: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        found.setdefault(group.decay_of(name), []).append(parameter)
    return [{"params": members, "weight_decay": decay} for decay, members in found.items()]


def _has_spikes(job: JobSpec) -> bool:
    return job.train.nonfinite.spike_factor > 0


def engine_config(job: JobSpec, stage: int, *, num_parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration for one group of so many trained parameters."""
    return {
        "train_micro_batch_size_per_gpu": job.train.micro_batch_images,
        "gradient_accumulation_steps": 1,  # rule 5
        "gradient_clipping": 0.0 if stage == 0 and job.train.precision == "fp32" else job.train.clip_norm,  # rule 4
        "bf16": {"enabled": job.train.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            # reduces from one buffer: against a GPU's fragmented memory, and on CPUs one more copy of every gradient
            "contiguous_gradients": job.cluster.use_gpu or stage == 3,
            # that buffer is made as large as this, also where a group has fewer parameters
            "reduce_bucket_size": min(BUCKET_ELEMENTS, num_parameters),
            "stage3_param_persistence_threshold": job.train.zero3_persistence_elements,
        },
        "steps_per_print": NEVER_PRINT_STEPS,
    }


class Engines(Mapping[str, GroupEngine]):
    """The engines of all groups of a recipe, and the routes by which losses reach the networks."""

    def __init__(self, groups: Mapping[str, Group], networks: Mapping[str, nn.Module], job: JobSpec) -> None:
        backward = Backward()
        self._engines = {
            name: GroupEngine(name, group, {net: networks[net] for net in group.nets}, job, backward=backward)
            for name, group in groups.items()
        }
        dtype = torch.bfloat16 if job.train.precision == "bf16" else torch.float32
        self.routes = {
            net: Route(net, networks[net], member=member if member.stage == 3 else None, dtype=dtype)
            for member in self._engines.values()
            for net in member.group.nets
        }
        self.full_routes = dict(self.routes)
        """The same in fp32 throughout, but for groups at ZeRO-3, which hold no whole weights to copy."""
        if dtype != torch.float32:
            self.full_routes |= {
                net: Route(net, networks[net], widened=True)
                for member in self._engines.values()
                for net in member.group.nets
                if member.stage < 3
            }

    def __getitem__(self, name: str) -> GroupEngine:
        return self._engines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    @contextmanager
    def only(self, name: str) -> Iterator[GroupEngine]:
        """Within, gradients flow into the group `name` and no other (rule 2)."""
        for other, member in self._engines.items():
            member.freeze(other != name)
        yield self._engines[name]
