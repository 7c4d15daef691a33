"""What a training really holds, for plans to be held against: bytes of live tensors on ranks, and of the allocator."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gen_dist.job.spec import JobSpec
from gen_dist.plan.census import step_kinds
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Ctx, Phase, Recipe
from gen_dist.recipes.randomness import Draw
from gen_dist.train.process import prepare


def held_on_ranks(job: JobSpec) -> dict[str, int]:
    """Two steps of every kind by the engines of a GPU run, on gloo. Runs on ranks. Bytes:

    `held`: of all tensors between two steps; `buckets`: those of stage 3's buckets, left out of `held`; for each phase,
    by its name, how much more there was after its backwards at the most; and by `staging of GROUP` the bucket that
    stages 1 and 2 have during a backward.
    """
    device = prepare(job.model_copy(update={"cluster": job.cluster.model_copy(update={"use_gpu": False})}))
    from gen_dist.train.averages import Averages
    from gen_dist.train.engines import Engines

    gc.collect()
    before, _ = _live_bytes({})
    recipe = catalog.build(job.recipe, job.model)
    engines = Engines(recipe.groups(), recipe.networks(), job)
    averages = Averages(engines, half_life_images=1000, batch_images=job.train.global_batch_images)
    found: dict[str, int] = {}
    for name, member in engines.items():
        _note_staging(member.optimizer, found, f"staging of {name}")

    def learn(clock: Clock, *, measure: bool) -> None:
        for phase in recipe.phases(clock):
            with engines.only(phase.group) as member:
                wanted = measure and phase.name not in found
                at_first = _live_bytes(engines)[0] if wanted else 0
                most = 0
                for part in (0, 1):
                    losses = phase.loss(context(engines.routes, clock, job, device), real_batch(recipe, job, device))
                    member.backward(torch.stack(list(losses.values())).sum(), last=phase.step and part == 1)
                    del losses
                    most = max(most, _live_bytes(engines)[0] - at_first) if wanted else 0
                if wanted:
                    found[phase.name] = most
                if phase.step:
                    member.step(1e-3)
                    averages.update(phase.group)

    for measure in (False, True):
        for kind in step_kinds(recipe, job):
            learn(kind.first, measure=measure)
    held, buckets = _live_bytes(engines)
    return {"held": held - before, "buckets": buckets, **found}


def _live_bytes(engines: Mapping[str, Any]) -> tuple[int, int]:
    """Of every tensor that Python can reach, and of the gradients behind them; DeepSpeed's buckets by themselves."""
    time.sleep(0.05)  # gloo's thread lets go of what it has reduced as soon as Python lets it: not while gc collects
    gc.collect()
    storages: dict[int, int] = {}
    for tensor in filter(_is_tensor, gc.get_objects()):
        for one in (tensor, tensor.grad if tensor.is_leaf else None):
            if one is not None and one.device.type == "cpu":
                storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
    buckets = sum(storages[tensor.untyped_storage().data_ptr()] for tensor in _buckets(engines))
    return sum(storages.values()) - buckets, buckets


def _note_staging(optimizer: Any, found: dict[str, int], name: str) -> None:
    """Of the buckets that DeepSpeed makes as a backward begins, and drops as it ends."""
    found[name] = 0
    make = getattr(optimizer, "setup_buckets", None)

    def note() -> None:
        make()
        found[name] = max(found[name], sum(tensor.untyped_storage().nbytes() for tensor in _buckets_of(optimizer)))

    if make is not None:
        optimizer.setup_buckets = note


def _buckets(engines: Mapping[str, Any]) -> Iterator[Tensor]:
    for member in engines.values():
        yield from _buckets_of(member.optimizer)


def _buckets_of(optimizer: Any) -> Iterator[Tensor]:
    for bucket in getattr(optimizer, "ipg_buckets", {}).values():
        kept = bucket.buffer  # of stage 3 a tensor, of the others a list
        yield from kept if isinstance(kept, list) else [] if kept is None else [kept]


def _is_tensor(thing: Any) -> bool:
    # not isinstance: it asks a weak reference for the class of what it refers to, which may be gone
    return issubclass(type(thing), Tensor) and type(thing).__module__ != "torch._subclasses.fake_tensor"


def real_batch(recipe: Recipe, job: JobSpec, device: torch.device, count: int = 0) -> dict[str, Any]:
    """A micro-batch with the fields of a recipe."""
    count = count or job.train.micro_batch_images
    batch: dict[str, Any] = {"weight": torch.ones(count, device=device)}
    for name, field in recipe.batch.items():
        if field.kind == "caption":
            batch[name] = ["red heart"] * count
        elif field.kind == "label":
            batch[name] = torch.zeros(count, dtype=torch.int64, device=device)
        else:
            batch[name] = torch.rand(count, *field.shape, device=device) * 2.0 - 1.0
    return batch


def context(routes: Mapping[str, Any], clock: Clock, job: JobSpec, device: torch.device, count: int = 0) -> Ctx:
    """What the loop gives to a loss."""
    draw = Draw(seed=0, first=clock.images, count=count or job.train.micro_batch_images, device=device)
    return Ctx(nets=routes, frozen={}, clock=clock, draw=draw, device=device)


def phases_with_networks(
    job: JobSpec, device: torch.device, count: int
) -> Iterator[tuple[Phase, list[Tensor], Ctx, dict[str, Any]]]:
    """Each phase of the run once, in plain torch: (phase, parameters that learn, ctx, batch)."""
    recipe = catalog.build(job.recipe, job.model)
    nets = {name: net.to(device) for name, net in recipe.networks().items()}
    routes = {False: nets, True: nets}
    if job.train.precision == "bf16":
        from gen_dist.train.engines import Route

        nets = {name: net.to(torch.bfloat16) for name, net in nets.items()}
        routes[False] = {name: Route(name, net, dtype=torch.bfloat16) for name, net in nets.items()}
        routes[True] = {name: Route(name, net, widened=True) for name, net in nets.items()}
    owned = {
        name: [value for net in group.nets for value in nets[net].parameters()]
        for name, group in recipe.groups().items()
    }
    done: set[str] = set()
    for kind in step_kinds(recipe, job):
        for phase in recipe.phases(kind.first):
            if phase.name not in done:
                done.add(phase.name)
                for group, values in owned.items():
                    for value in values:
                        value.requires_grad_(group == phase.group)
                yield (
                    phase,
                    owned[phase.group],
                    context(routes[phase.full_precision], kind.first, job, device, count),
                    real_batch(recipe, job, device, count),
                )


def peaks_on_cpu(job: JobSpec, count: int) -> dict[str, int]:
    """By phase: the most that the allocator had given out at once in forward and backward, without gradients."""
    found = {}
    for phase, parameters, ctx, batch in phases_with_networks(job, torch.device("cpu"), count):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            torch.stack(list(phase.loss(ctx, batch).values())).sum().backward()
        gradients = {value.grad.untyped_storage().data_ptr() for value in parameters if value.grad is not None}
        found[phase.name] = _peak(recorded, without=gradients)
        for value in parameters:
            value.grad = None
    return found


def _peak(recorded: profile, *, without: set[int]) -> int:
    """Of the allocations in a profile; a block that ends as a gradient is one from its last allocation on."""
    events = sorted(_allocations(recorded), key=lambda event: event[0])
    kept_from = {ptr: when for when, ptr, size in events if size > 0 and ptr in without}
    now = peak = 0
    known: set[int] = set()
    for when, ptr, size in events:
        if ptr in without and when >= kept_from[ptr]:
            continue
        if size < 0 and ptr not in known:
            continue  # allocated before the profile
        known.add(ptr)
        now += size
        peak = max(peak, now)
    return peak


def _allocations(recorded: profile) -> Iterator[tuple[int, int, int]]:
    """(time, address, bytes: negative where freed)."""
    left = list(recorded.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    while left:
        event = left.pop()
        left += event.children
        if event.tag.name == "Allocation":
            fields = event.typed[1]
            yield event.start_time_ns, fields.ptr, fields.alloc_size
