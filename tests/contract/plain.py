"""The same training in plain torch: one process, the joined batch, no code of gen_dist.train. Engines must equal it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gen_dist.recipes.contract import Clock, Ctx
from gen_dist.recipes.randomness import Draw
from tests.contract.cases import Case, build, stream


@dataclass
class Result:
    """Weights at the start and at the end, by group/network.parameter; the rest for the tests of the tests."""

    start: dict[str, Tensor]
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]
    """What samples are drawn from, by network.parameter."""
    num_clipped: int = 0
    num_steps: dict[str, int] = field(default_factory=dict)
    """Optimizer steps by phase."""
    dropped: list[tuple[int, str]] = field(default_factory=list)
    """(step, phase) of those that were not made."""
    first_losses: dict[str, float] = field(default_factory=dict)
    """Of the first step, by phase/name."""


class Half:
    """A network as bf16 copies of fp32 weights, float32 in and out; `full` computes in fp32 with those copies."""

    def __init__(self, net: nn.Module, *, full: bool = False) -> None:
        self._net, self._dtype = net, torch.float32 if full else torch.bfloat16

    def __call__(self, *args: object, **kwargs: object) -> object:
        args, kwargs = _cast((args, kwargs), self._dtype)
        weights = _cast(_cast(dict(self._net.named_parameters()), torch.bfloat16), self._dtype)
        return _cast(torch.func.functional_call(self._net, weights, args, kwargs), torch.float32)


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, tree)


def train(case: Case, *, gradient_scale: float = 1.0, longest_norm: float = math.inf) -> Result:
    """From the start of the job to its end. Another `gradient_scale` is a fault on purpose.

    A step whose loss or gradient is no number is not made, nor one whose gradient is longer than `longest_norm`.
    """
    job = case.job
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    recipe, groups = build(case)
    nets = recipe.networks()
    frozen = {name: net.eval().requires_grad_(False) for name, net in recipe.frozen().items()}
    if job.train.precision == "bf16":
        for net in nets.values():
            net.load_state_dict({name: value.bfloat16().float() for name, value in net.state_dict().items()})
    parameters = {
        name: {f"{net}.{key}": value for net in group.nets for key, value in nets[net].named_parameters()}
        for name, group in groups.items()
    }
    optimizers = {
        name: torch.optim.AdamW(
            [{"params": [value], "weight_decay": group.decay_of(key)} for key, value in parameters[name].items()],
            lr=group.learning_rate,
            betas=group.betas,
            eps=group.eps,
            foreach=False,
        )
        for name, group in groups.items()
    }
    averages = {name: {key: value.detach().clone() for key, value in own.items()} for name, own in parameters.items()}
    result = Result(_flat(parameters), {}, {})
    data, size, images, step = stream(job, recipe), job.train.global_batch_images, 0, 0
    seen = dict.fromkeys(groups, 0)
    half = job.train.precision == "bf16"
    routes = {full: {name: Half(net, full=full) if half else net for name, net in nets.items()} for full in (0, 1)}
    while images < job.train.total_images:
        clock, position = Clock(images=images, step=step), images
        batch = _batch(data.batch(position, size))
        images += size
        for number, phase in enumerate(recipe.phases(clock)):
            if phase.fresh:
                position, images = images, images + size
                batch = _batch(data.batch(position, size))
            for name, own in parameters.items():
                for value in own.values():
                    value.requires_grad_(name == phase.group)
            draw = Draw(seed=job.seed, first=position, count=size, turn=number * 65_536)
            ctx = Ctx(
                nets=routes[phase.full_precision], frozen=frozen, clock=clock, draw=draw, device=torch.device("cpu")
            )
            losses = phase.loss(ctx, batch)
            if not step:
                result.first_losses |= {f"{phase.name}/{name}": float(value) for name, value in losses.items()}
            loss = torch.stack(list(losses.values())).sum()
            loss.backward()
            if not phase.step:
                continue
            found = [value.grad for value in parameters[phase.group].values() if value.grad is not None]
            length = float(torch.cat([gradient.flatten() for gradient in found]).norm())
            if not (math.isfinite(float(loss)) and math.isfinite(length) and length <= longest_norm):
                optimizers[phase.group].zero_grad()
                result.dropped.append((step, phase.name))
                continue
            for value in parameters[phase.group].values():
                # torch's optimizers skip a parameter that the phase did not reach; engines give it a gradient of zero,
                # so that its second moment fades as that of all others
                value.grad = torch.zeros_like(value) if value.grad is None else value.grad * gradient_scale
            if job.train.clip_norm:
                norm = nn.utils.clip_grad_norm_(parameters[phase.group].values(), job.train.clip_norm)
                result.num_clipped += bool(norm > job.train.clip_norm)
            optimizers[phase.group].step()
            optimizers[phase.group].zero_grad()
            result.num_steps[phase.name] = result.num_steps.get(phase.name, 0) + 1
            seen[phase.group] += size
            half_life = min(job.train.ema_half_life_images, seen[phase.group] / 20)
            for key, value in parameters[phase.group].items():
                averages[phase.group][key].lerp_(value.detach(), 1 - 0.5 ** (size / half_life))
        step += 1
    result.weights = _flat(parameters)
    for name, group in groups.items():
        result.averages |= averages[name] if group.average else parameters[name]
    return result


def _flat(parameters: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}/{key}": value.detach().clone() for name, own in parameters.items() for key, value in own.items()}


def _batch(read: Mapping[str, object]) -> dict[str, object]:
    return {key: value / 127.5 - 1 if key == "image" else value for key, value in read.items()}
