"""GigaGAN with adaptive augmentation equals plain torch, resumes to the bit, and penalises images as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gen_dist.checkpoint import read_recipe
from tests.contract import distributed, plain
from tests.contract.cases import Case, small_case
from tests.contract.test_engines import FP32, error
from tests.contract.test_gigagan import CAPTIONS, batch_of, made, phase_losses
from tests.contract.test_resume import checkpoints, first_and_last
from tests.support.ranks import Ranks

KINDS = ["flip", "translate", "scale", "rotate", "brightness", "contrast", "saturation", "hue"]


def adaptive(**train: Any) -> Case:
    """The probability can reach 1 in 10 steps, and the target is where an undecided discriminator is."""
    case = small_case("gigagan", **train)
    model = {"augment": "adaptive", "augment_images": 160, "augment_target": 0.01, "augment_kinds": KINDS}
    return Case(case.job.model_copy(update={"model": {**case.job.model, **model}}), case.eps, case.folder, case.resume)


@pytest.mark.long
def test_it_trains_as_plain_torch_and_resumes_to_the_bit(pair: Ranks, tmp_path: Path) -> None:
    case = adaptive(folder=tmp_path / "whole", log_every_images=16)
    whole = pair.run(distributed.train, case)[0]
    seen = [line["loss/discriminator/augment_probability"] for line in whole["metrics"]]
    assert seen[0] == 0.0
    assert max(seen) > 0.2
    assert len(set(seen)) > 3, "up and down"
    worst, where = error(whole["weights"], plain.train(adaptive()).weights)
    assert worst <= 10 * FP32, f"{where} is off by {worst:.1e}"  # coordinates of pixels are rounded to 1e-6
    middle, end = first_and_last(tmp_path / "whole")
    case = replace(adaptive(folder=tmp_path / "again"), resume=tmp_path / "whole" / middle.name)
    pair.run(distributed.train, case)
    again = checkpoints(tmp_path / "again")[-1]
    assert set(read_recipe(end)) >= {"augment_probability", "augment_images"}
    assert all(torch.equal(again.tensor(key), end.tensor(key)) for key in end.keys())  # noqa: SIM118


def test_the_penalty_sees_images_as_they_are_and_the_game_does_not() -> None:
    batch = batch_of(CAPTIONS)
    settings: dict[str, Any] = {"augment": "fixed", "augment_probability": 1.0}
    for phase, loss, is_equal in (
        ("penalty", "r1", True),
        ("discriminator", "real", False),
        ("generator", "fool", False),
    ):
        bare, seen = (phase_losses(made(**own), phase, batch)[loss] for own in ({}, settings))
        assert torch.equal(bare, seen) is is_equal, phase
