"""The score: features tell images apart as an eye would, and a perfect model scores 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gen_dist.data.source import open_stream
from gen_dist.evaluate.features import describe
from gen_dist.evaluate.nearest import score
from gen_dist.job.spec import DataSpec
from gen_dist.recipes.contract import Field

FIELDS = {"image": Field("image", (3, 32, 32)), "caption": Field("caption"), "label": Field("label")}
DATA = DataSpec(url="embedded://emoji", train="heldout-*.tar")


def test_each_image_is_nearest_to_itself_also_when_it_is_noisy() -> None:
    with open_stream(DATA, pattern="heldout-*.tar", fields=FIELDS, seed=0) as stream:
        images = stream.batch(0, 64)["image"].permute(0, 2, 3, 1).numpy()
    noise = np.random.Generator(np.random.Philox(0)).normal(0, 12, images.shape)
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
    nearest = torch.cdist(describe(noisy), describe(images)).argmin(dim=1)
    # flags and faces come in near-equal pairs: most, not all
    assert (nearest == torch.arange(64)).float().mean() > 0.9


def test_the_parts_of_a_description_weigh_the_same() -> None:
    images = np.random.Generator(np.random.Philox(1)).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    assert torch.allclose(describe(images).norm(dim=1), torch.full((3,), 2.0**0.5), atol=1e-5)


class Copier:
    """A model that draws the training image of a caption, or always the same one."""

    def __init__(self, images: Any, captions: list[str], *, stuck: bool) -> None:
        self._images, self._captions, self._stuck = images, captions, stuck

    def draw(self, prompts: list[str], *, seed: int) -> np.ndarray:
        rows = [0 if self._stuck else self._captions.index(prompt) for prompt in prompts]
        return self._images[rows].permute(0, 2, 3, 1).numpy()


def test_a_copier_scores_one_and_a_stuck_model_scores_chance() -> None:
    with open_stream(DATA, pattern="heldout-*.tar", fields=FIELDS, seed=0) as stream:
        everything = stream.batch(0, stream.num_samples)
        images, captions = everything["image"], list(everything["caption"])
        perfect = score(Copier(images, captions, stuck=False), stream, count=64)  # type: ignore[arg-type]
        stuck = score(Copier(images, captions, stuck=True), stream, count=stream.num_samples)  # type: ignore[arg-type]
    assert perfect.category_share == 1.0
    assert perfect.own_image_share > 0.95
    share = float((everything["label"] == everything["label"][0]).float().mean())
    assert abs(stuck.category_share - share) < 1e-6
    assert 0.08 < stuck.category_chance < 0.25
