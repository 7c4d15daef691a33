"""GigaGAN beside frozen judges, trained by DeepSpeed in bf16: CLIP that reads captions, and heads on CLIP's eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract import distributed, plain
from tests.contract.cases import Case, build, small_case, stream
from tests.contract.test_engines import BF16
from tests.support.ranks import Ranks
from tests.support.text_models import WORDS, write_pair_model

IMAGES = 16
JUDGES = {"vision/real", "vision/fake", "generator/clip", "generator/fool_vision"}


def judged(folder: Path, **train: Any) -> Case:
    """Three steps on whole batches: the candidates of CLIP's loss are those of a micro-batch."""
    stages = {"generator": 1, "discriminator": 1, "vision": 1}
    values = {
        "total_images": 3 * IMAGES,
        "global_batch_images": IMAGES,
        "micro_batch_images": IMAGES,
        "log_every_images": IMAGES,
    }
    case = small_case("gigagan", **{"zero_stages": stages, **values, **train})
    model = {**case.job.model, "clip": str(folder), "vision": str(folder), "clip_weight": 1.0}
    return Case(case.job.model_copy(update={"model": model}), eps=case.eps)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP that knows the words of the first captions: it mixes up all that it does not know."""
    case = small_case("gigagan")
    captions = stream(case.job, build(case)[0]).batch(0, IMAGES)["caption"]
    words = sorted({word for caption in captions for word in caption.replace("-", " ").split()} - set(WORDS))
    return write_pair_model(tmp_path_factory.mktemp("clip"), words=[*WORDS, *words])


@pytest.fixture(scope="module")
def plainly(folder: Path) -> dict[str, plain.Result]:
    """By precision."""
    return {precision: plain.train(judged(folder, precision=precision)) for precision in ("fp32", "bf16")}


@pytest.mark.parametrize("stage", range(4))
def test_bf16_pays_its_judges_what_plain_fp32_does_and_learns_as_plain_bf16(
    single: Ranks, folder: Path, plainly: dict[str, plain.Result], stage: int
) -> None:
    stages = {"generator": stage, "discriminator": min(stage, 2), "vision": stage}
    (found,) = single.run(distributed.train, judged(folder, precision="bf16", zero_stages=stages))
    wanted = plainly["fp32"].first_losses
    assert wanted.keys() >= JUDGES
    assert abs(wanted["generator/clip"] - np.log(IMAGES)) > 0.01, "CLIP mixes all captions up"
    first = {name: found["metrics"][0][f"loss/{name}"] for name in wanted}
    assert first == pytest.approx(wanted, rel=BF16, abs=BF16)
    half = plainly["bf16"]
    for group in stages:
        names = [name for name in half.start if name.startswith(f"{group}/")]
        moved, should = (
            np.concatenate([(np.asarray(end[name]) - half.start[name].numpy()).ravel() for name in names])
            for end in (found["weights"], half.weights)
        )
        assert np.linalg.norm(moved - should) <= BF16 * np.linalg.norm(should), group
