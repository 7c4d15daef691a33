"""What a step holds of its images: bytes of all of them, and numbers of the micro-batch whose turn it is."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from gen_dist.job.load import load_resolved
from gen_dist.recipes.contract import Clock, Phase
from gen_dist.train.feed import Feed, as_floats, to_device

CPU = torch.device("cpu")


def batch_of(count: int) -> dict[str, Any]:
    """As streams give them: (B, 3, H, W), and (B, H, W, 3) in memory."""
    image = torch.arange(count * 48, dtype=torch.uint8).view(count, 4, 4, 3).permute(0, 3, 1, 2)
    return {"image": image, "label": torch.arange(count), "caption": ["x"] * count, "weight": torch.ones(count)}


def test_a_step_has_its_images_as_bytes() -> None:
    sizes = {"total_images": 8, "global_batch_images": 8, "micro_batch_images": 2}
    job = load_resolved({"name": "x", "recipe": "ddpm", "data": {"url": "embedded://emoji"}, "train": sizes})

    def prefetch(positions: Iterator[tuple[int, int]], depth: int) -> Iterator[tuple[int, dict[str, Any]]]:
        return ((position, batch_of(count)) for position, count in positions)

    stream: Any = SimpleNamespace(prefetch=prefetch)
    ledger: Any = SimpleNamespace(shift=0, took=lambda batch: None)
    recipe: Any = SimpleNamespace(phases=lambda clock: (Phase("only", "net", lambda ctx, batch: {}),))
    taken = Feed(stream, recipe, Clock(0, 0), ledger, job=job, rank=0, world_size=1, device=CPU).take()
    assert [position for position, _ in taken] == [0, 2, 4, 6]
    for _, batch in taken:
        assert batch["image"].dtype == torch.uint8


def test_a_recipe_is_given_numbers_and_the_bytes_stay_as_they_are() -> None:
    batch = batch_of(2)
    for found in (as_floats(batch), to_device(batch, CPU)):
        assert found["image"].is_contiguous()
        torch.testing.assert_close(found["image"], batch["image"].double().div(127.5).sub(1.0).float())
        assert found["label"].tolist() == [0, 1]
        assert found["caption"] == ["x", "x"]
    assert batch["image"].dtype == torch.uint8
    assert float(as_floats({"image": torch.tensor([0, 255], dtype=torch.uint8)})["image"].sum()) == 0.0
