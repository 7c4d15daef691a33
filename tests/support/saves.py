"""Checkpoints without a training: a state that follows from the images learned from, cut up over any workers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gen_dist.checkpoint import Checkpoint, Piece, Saver, candidates, open_checkpoint
from gen_dist.store import Store

SHAPES = {
    "weight/net/nets.net.w": (7, 5),
    "weight/net/nets.net.b": (5,),
    "exp_avg/net/nets.net.w": (7, 5),
    "exp_avg_sq/net/nets.net.w": (7, 5),
    "average/net/nets.net.w": (7, 5),
    "average/net/nets.net.b": (5,),
}
WHOLE = {"buffer/net/nets.net.seen": (), "recipe/pool": (0, 3)}
FACTS = {"job": {"recipe": "none", "model": {}}, "data_digest": "d"}
WAIT_S = 300.0


class Events(list[tuple[str, dict[str, Any]]]):
    """What a Saver told, in order."""

    def __call__(self, kind: str, **facts: Any) -> None:
        self.append((kind, facts))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [facts for name, facts in self if name == kind]


def state(images: int, *, scale: int = 1) -> dict[str, Tensor]:
    """Whole tensors, different at every number of images and in every element; `scale` makes them larger."""
    tensors: dict[str, Tensor] = {}
    for number, (key, shape) in enumerate(SHAPES.items()):
        size = (shape[0] * scale, *shape[1:])
        tensors[key] = torch.arange(math.prod(size), dtype=torch.float32).reshape(size) + images * 1000 + number * 0.25
    tensors["buffer/net/nets.net.seen"] = torch.tensor(images, dtype=torch.int64)
    tensors["recipe/pool"] = torch.zeros(0, 3, dtype=torch.bfloat16)
    return tensors


def pieces(tensors: dict[str, Tensor], *, rank: int, world_size: int) -> list[Piece]:
    """What a worker holds: a part of every tensor, cut at odd places; the leader also what is not divided."""
    held = []
    for key, value in tensors.items():
        numel = value.numel()
        if key in WHOLE:
            low, high = (0, numel) if rank == 0 else (numel, numel)
        else:
            low, high = numel * rank // world_size, numel * (rank + 1) // world_size
        if high > low or (numel == 0 and rank == 0):
            held.append(Piece(key, tuple(value.shape), low, value.flatten()[low:high]))
    return held


def group(store: Store, *, attempt: int, world_size: int = 2, **options: Any) -> list[Saver]:
    """The savers of a worker group, by rank."""
    return [Saver(store, attempt=attempt, rank=rank, world_size=world_size, **options) for rank in range(world_size)]


def save(savers: list[Saver], images: int, *, facts: dict[str, Any] | None = None, scale: int = 1) -> None:
    """Begins one checkpoint of `state(images)` on all workers."""
    for rank, saver in enumerate(savers):
        held = pieces(state(images, scale=scale), rank=rank, world_size=len(savers))
        saver.save(images, images // 64, held, FACTS | (facts or {}) if rank == 0 else {})


def commit(savers: list[Saver], images: int, *, facts: dict[str, Any] | None = None) -> str:
    """As `save`, and waits; the name of the checkpoint."""
    save(savers, images, facts=facts)
    assert all(saver.flush(WAIT_S) for saver in savers)
    assert savers[0].committed is not None
    return savers[0].committed


def newest(store: Store) -> Checkpoint:
    """The newest checkpoint to go on from."""
    return open_checkpoint(store, candidates(store)[0])


def check_whole(checkpoint: Checkpoint, *, scale: int = 1) -> None:
    """That it verifies, and holds bit by bit the state that its name speaks of."""
    checkpoint.verify()
    expected = state(checkpoint.manifest.images, scale=scale)
    assert set(checkpoint.keys()) == set(expected)
    for key, value in expected.items():
        found = checkpoint.tensor(key)
        assert found.dtype == value.dtype
        assert found.shape == value.shape
        assert torch.equal(found, value)
