"""The state that is saved and loaded, on each of two ranks, and the clock around both sides. Runs on ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gen_dist.checkpoint import Saver, begin_attempt, candidates, open_checkpoint
from gen_dist.job.spec import DataSpec, JobSpec, TrainSpec
from gen_dist.recipes.contract import Group
from gen_dist.store import open_store
from gen_dist.train.process import prepare

BATCH = 64  # of each worker's step: 6 x 98 M x 64 = 38 GFLOP; any convolution of that size takes far more
_HERE: dict[str, Any] = {}
"""What this rank holds from one call to the next."""


class Layers(nn.Module):
    """Two tensors each."""

    def __init__(self, num_layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))

    def forward(self, x_BD: Tensor) -> Tensor:
        for layer in self.layers:
            x_BD = x_BD + layer(x_BD)
        return x_BD


def build(stage: int, num_layers: int, width: int) -> int:
    """An engine with random weights and moments; its number of parameters."""
    job = JobSpec(name="speed", recipe="dcgan", data=DataSpec(url="embedded://emoji"), train=TrainSpec(total_images=1))
    job = job.model_copy(update={"train": job.train.model_copy(update={"zero_stage": stage})})
    prepare(job)
    logging.disable(logging.WARNING)
    from gen_dist.train.engines import Engines
    from gen_dist.train.masters import MOMENTS, local_moments, start_moments

    _HERE.clear()
    net = Layers(num_layers, width)
    engines = Engines({"all": Group(("net",), 1e-3)}, {"net": net}, job)
    member = engines["all"]
    start_moments(member, steps=1)
    for moment in MOMENTS:
        for value in local_moments(member, moment):
            value.uniform_()
    _HERE.update(member=member, engines=engines, width=width)
    return member.num_parameters


def _saver(folder: Path) -> Saver:
    if _HERE.get("folder") != folder:
        rank, size = dist.get_rank(), dist.get_world_size()
        store = open_store(str(folder))
        attempt = [begin_attempt(store) if rank == 0 else 0]
        dist.broadcast_object_list(attempt)
        saver = Saver(store, attempt=attempt[0], rank=rank, world_size=size)
        _HERE.update(folder=folder, saver=saver)
        _HERE["member"].before_change = saver.settle
    return _HERE["saver"]


def _save(saver: Saver, images: int) -> None:
    from gen_dist.train import fragments

    pieces = fragments.pieces(_HERE["member"], [], rank=dist.get_rank(), size=dist.get_world_size())
    saver.save(images, 1, pieces, {"group_steps": {"all": 1}})


def save_ours(folder: Path, images: int) -> tuple[float]:
    """Seconds until it is committed, on this rank, which does nothing else."""
    saver = _saver(folder)

    def save() -> None:
        _save(saver, images)
        if not saver.flush(600):
            raise RuntimeError("not committed")

    return (_timed(save),)


def save_and_train(folder: Path, images: int) -> tuple[float, float, float]:
    """Seconds that this rank stands still for a checkpoint while it goes on with a step, up to the optimizer; seconds
    by which that stretch takes longer than without a checkpoint; seconds that it takes without.
    """
    saver = _saver(folder)
    bare_s = _timed(_learn)
    _HERE["member"].step(0.0)
    still_s = saver.snapshot_s

    def save_and_learn() -> None:
        _save(saver, images)
        _learn()
        saver.settle()

    whole_s = _timed(save_and_learn)
    still_s = saver.snapshot_s - still_s
    _HERE["member"].step(0.0)
    if not saver.flush(600):
        raise RuntimeError("not committed")
    return still_s, max(still_s, whole_s - bare_s), bare_s


def _learn() -> None:
    member = _HERE["member"]
    x_BD = torch.ones(BATCH, _HERE["width"])
    member.backward(member.engine("net", x_BD).square().mean(), last=True)


def save_theirs(folder: Path, tag: str) -> float:
    """Seconds on this rank."""
    return _timed(lambda: _HERE["member"].engine.save_checkpoint(str(folder), tag=tag))


def load_ours(folder: Path) -> float:
    """Seconds to find, verify and load the newest checkpoint."""
    from gen_dist.train import fragments

    def load() -> None:
        store = open_store(str(folder))
        checkpoint = open_checkpoint(store, candidates(store)[0])
        checkpoint.verify(dist.get_rank(), dist.get_world_size())
        dist.barrier()
        fragments.restore(_HERE["member"], [], checkpoint, steps=1)

    return _timed(load)


def load_theirs(folder: Path, tag: str) -> float:
    """Seconds to load a universal checkpoint."""
    engine = _HERE["member"].engine
    engine._config.load_universal_checkpoint = True

    def load() -> None:
        path, _ = engine.load_checkpoint(str(folder), tag=tag)
        if path is None:
            raise RuntimeError(f"{folder}/{tag}: not loaded")

    return _timed(load)


def fill(value: float) -> None:
    """Weights of one number, so that a load is seen to load."""
    from gen_dist.train.masters import local_masters, spread_masters

    with torch.no_grad():
        for master in local_masters(_HERE["member"]):
            master.fill_(value)
    spread_masters(_HERE["member"])


def witness() -> float:
    """A sum over this rank's weights and moments."""
    from gen_dist.train.masters import MOMENTS, local_masters, local_moments

    member = _HERE["member"]
    lists = [local_masters(member), *(local_moments(member, moment) for moment in MOMENTS)]
    return float(sum(value.detach().double().square().sum() for tensors in lists for value in tensors))


def _timed(act: Callable[[], object]) -> float:
    dist.barrier()
    started_s = time.perf_counter()
    act()
    return time.perf_counter() - started_s
