"""Two groups of small networks whose whole state is written by some ranks and read by others. Runs on ranks.

The truth is not ours: DeepSpeed's own functions assemble whole weights and moments, and torch holds the buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Group
from gen_dist.train.process import prepare
from tests.contract.cases import smoke_job, with_train

WIDTHS = (7, 5)  # no power of two: partitions end within parameters, and some ranks pad
PERSISTENT_ELEMENTS = 20  # at ZeRO 3 some parameters stay whole, and some are split
STEPS = 3


@dataclass(frozen=True)
class Way:
    """How a state is spread."""

    workers: int
    precision: str
    stage: int

    @property
    def job(self) -> JobSpec:
        changes = {"precision": self.precision, "zero_stage": self.stage, "clip_norm": 0.0}
        return with_train(smoke_job("dcgan"), zero3_persistence_elements=PERSISTENT_ELEMENTS, **changes)

    @property
    def name(self) -> str:
        return f"{self.workers}-{self.precision}-{self.stage}"


def ways(workers: int) -> list[Way]:
    """All at one number of workers. One worker in fp32 runs at stage 0 whatever the job says."""
    found = [Way(workers, precision, stage) for precision in ("fp32", "bf16") for stage in range(4)]
    return [way for way in found if workers > 1 or way.precision == "bf16" or way.stage == 0]


class First(nn.Module):
    """Buffers of two number formats that every call changes, and a frozen table."""

    mean: Tensor
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTHS[0], 3, padding=1)
        self.register_buffer("mean", torch.zeros(WIDTHS[0]))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.scale = nn.Parameter(torch.tensor([1.5]))  # fewer elements than workers
        self.table = nn.Parameter(torch.randn(WIDTHS[0], 11), requires_grad=False)
        self.last = nn.Linear(11, WIDTHS[1])

    def forward(self, image: Tensor) -> Tensor:
        found = self.conv(image).mean(dim=(2, 3))
        with torch.no_grad():
            self.mean.lerp_(found.mean(dim=0).to(self.mean.dtype), 0.3)
            self.calls += 1
        return self.last(found @ self.table * self.scale)


class Made:
    """The state of one way on this rank."""

    def __init__(self, way: Way, *, seed: int, half_life_images: int = 40) -> None:
        from gen_dist.train.averages import Averages
        from gen_dist.train.engines import Engines

        self.way = way
        prepare(way.job)
        torch.manual_seed(seed)
        nets = {"first": First(), "second": nn.Sequential(nn.Linear(WIDTHS[1], 13), nn.SiLU(), nn.Linear(13, 1))}
        groups = {"a": Group(("first",), 1e-2), "b": Group(("second",), 1e-2, average=False)}
        self.engines = Engines(groups, nets, way.job)
        self.averages = Averages(self.engines, half_life_images=half_life_images, batch_images=8)

    def train(self, steps: int = STEPS) -> None:
        rank = torch.distributed.get_rank()
        for step in range(steps):
            for name, member in self.engines.items():
                generator = torch.Generator().manual_seed(100 * step + rank)
                with self.engines.only(name):
                    image = torch.randn(4, 3, 6, 6, generator=generator)
                    routes: Any = self.engines.routes
                    loss = (routes["second"](routes["first"](image)) - image.mean()).square().mean()
                    member.backward(loss, last=True)
                    member.step(1e-2)
                self.averages.update(name)

    def spoil(self) -> None:
        """Other numbers everywhere that a checkpoint is to restore."""
        from gen_dist.train.masters import MOMENTS, local_masters, local_moments, num_steps, spread_masters

        with torch.no_grad():
            for name, member in self.engines.items():
                lists = [local_masters(member), self.averages.local(name)]
                lists += [local_moments(member, moment) for moment in MOMENTS if num_steps(member)]
                for tensor in (tensor for tensors in lists for tensor in tensors):
                    tensor.fill_(0.123)
                for buffer in member.box.buffers():
                    buffer.fill_(1)
                spread_masters(member)


def truth(made: Made) -> dict[str, np.ndarray]:
    """Everything, whole, by the key that a checkpoint gives it. Collective."""
    from deepspeed.utils import safe_get_full_optimizer_state

    from gen_dist.train.masters import MOMENTS, local_masters, local_moments, whole_fixed, whole_weights

    found: dict[str, Tensor] = {}
    for name, member in made.engines.items():
        found |= {f"weight/{name}/{key}": value.clone() for key, value in whole_weights(member)}
        if made.averages.local(name):
            found |= {f"average/{name}/{key}": value.clone() for key, value in made.averages.whole(name)}
        for moment in MOMENTS:
            for number, (key, parameter) in enumerate(member.parameters.items()):
                if member.stage == 0:
                    assert local_masters(member)[number].shape == parameter.shape
                    value = local_moments(member, moment)[number]
                else:
                    value = safe_get_full_optimizer_state(parameter, moment)
                found[f"{moment}/{name}/{key}"] = value.clone()
        found |= {f"buffer/{name}/{key}": value.clone() for key, value in whole_fixed(member)}
    return {key: _array(value) for key, value in found.items()}


def _array(value: Tensor) -> np.ndarray:
    """bf16 as the float32 of the same value."""
    value = value.detach()
    return (value.float() if value.is_floating_point() else value).numpy().copy()


def write(ways: list[Way], folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """A checkpoint of each way, written by all ranks, and the truth by its name."""
    from gen_dist.checkpoint import Saver, begin_attempt
    from gen_dist.store import open_store
    from gen_dist.train import fragments
    from gen_dist.train.masters import num_steps

    found = {}
    for way in ways:
        made = Made(way, seed=5)
        made.train()
        store = _store(folder, way)
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        attempt = begin_attempt(store) if rank == 0 else 1
        torch.distributed.barrier()
        saver = Saver(open_store(store.url), attempt=attempt, rank=rank, world_size=size)
        pieces = []
        for name, member in made.engines.items():
            pieces += fragments.pieces(member, made.averages.local(name), rank=rank, size=size)
        saver.save(64, STEPS, pieces, {"steps": {name: num_steps(member) for name, member in made.engines.items()}})
        saver.settle()
        made.spoil()  # what was begun is a copy
        assert saver.flush(300)
        made = Made(way, seed=5)
        made.train()
        found[way.name] = truth(made)
    torch.distributed.barrier()
    return found


def read(ways: list[Way], sources: dict[str, dict[str, np.ndarray]], folder: Path) -> list[str]:
    """Reads each source in each way; what is not, bit for bit, as it was written."""
    faults = []
    for way in ways:
        made = Made(way, seed=6)
        for source, wanted in sources.items():
            restore(made, folder / source)
            found = truth(made)
            assert found.keys() == wanted.keys()
            for key, value in found.items():
                should = wanted[key]
                if key.endswith("table") and way.precision == "bf16":  # DeepSpeed rounds parameters and leaves buffers
                    should = torch.from_numpy(should).bfloat16().float().numpy()
                if not np.array_equal(value, should):
                    faults.append(f"{source} -> {way.name}: {key} off by {np.abs(value - should).max()}")
            faults += [f"{source} -> {way.name}: {fault}" for fault in _live_faults(made)]
            made.spoil()
    return faults


def restore(made: Made, folder: Path) -> None:
    """The only checkpoint in a folder, into engines."""
    from gen_dist.checkpoint import candidates, open_checkpoint
    from gen_dist.store import open_store
    from gen_dist.train import fragments

    store = open_store(str(folder))
    checkpoint = open_checkpoint(store, candidates(store)[0])
    for name, member in made.engines.items():
        steps = checkpoint.manifest.facts["steps"][name]
        fragments.restore(member, made.averages.local(name), checkpoint, steps=steps)
        made.averages.resume(name)


def _live_faults(made: Made) -> list[str]:
    """Parameters whose network does not compute with the fp32 weights, rounded to its precision. Collective."""
    import deepspeed

    from gen_dist.train.masters import num_steps, whole_weights

    faults = []
    for name, member in made.engines.items():
        masters = {key: value.clone() for key, value in whole_weights(member)}
        for key, parameter in member.parameters.items():
            with deepspeed.zero.GatheredParameters([parameter], enabled=member.stage == 3):
                if not torch.equal(parameter.detach(), masters[key].to(parameter.dtype)):
                    faults.append(f"the network's {name}/{key} is not its fp32 weight")
        if num_steps(member) != STEPS:
            faults.append(f"{name} made {num_steps(member)} steps")
    return faults


def _store(folder: Path, way: Way) -> Any:
    from gen_dist.store import open_store

    (folder / way.name).mkdir(parents=True, exist_ok=True)
    return open_store(str(folder / way.name))
