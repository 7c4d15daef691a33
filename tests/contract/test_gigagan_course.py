"""A game of GigaGAN that is lost: the run says what it sees, and goes on, stops or goes back as the job wants."""

from __future__ import annotations

from typing import Any

import pytest

from gen_dist.job.spec import DivergenceSpec
from gen_dist.recipes.gigagan_health import diagnosis
from tests.contract import distributed
from tests.contract.cases import Case, small_case
from tests.support.ranks import Ranks

ABSURD = {"discriminator_learning_rate": 0.3, "generator_learning_rate": 1e-5, "r1_gamma": 0.0, "lost_saturation": 0.6}


def game(policy: Any, **model: Any) -> Case:
    """Log lines of 32 images."""
    train = {"total_images": 192, "log_every_images": 32, "clip_norm": 0.0}
    case = small_case("gigagan", **train, divergence=DivergenceSpec(policy=policy, patience_images=64))
    return Case(case.job.model_copy(update={"model": {**case.job.model, **model}}))


@pytest.mark.parametrize("policy", ["stop", pytest.param("rollback", marks=pytest.mark.long)])
def test_a_lost_game_ends_its_group_on_all_workers_alike(pair: Ranks, policy: str) -> None:
    answers = pair.run(distributed.train_until_refused, game(policy, **ABSURD))
    assert answers[0] == answers[1]
    kind, text, arguments = answers[0]
    assert "above model.lost_saturation=0.6; logit gap " in text
    assert len(text.splitlines()) == 1
    if policy == "stop":
        assert kind == "DivergenceError"
        assert text.endswith("lower model.discriminator_learning_rate, or raise model.r1_gamma")
        return
    checkpoints, position, images, _ = arguments
    assert kind == "RollbackWanted"
    assert checkpoints == 1
    assert position == images >= 96, "after all images so far, and not before the patience is at its end"


@pytest.mark.long
def test_by_default_a_lost_game_is_told_and_goes_on(pair: Ranks) -> None:
    found = pair.run(distributed.train, game("warn", **ABSURD))[0]
    assert found["metrics"][-1]["loss/discriminator/saturation"] > 0.6
    assert 1 <= len(found["warnings"]) <= 2, "once in `patience_images`"
    assert "the discriminator " in found["warnings"][0]
    assert pair.run(distributed.train, game("stop"))[0]["warnings"] == [], "a sound game is left alone"


def test_the_diagnosis_says_who_is_wrong() -> None:
    def of(saturation: float, gap: float) -> str:
        means = {"discriminator/saturation": saturation, "discriminator/logit_gap": gap}
        return diagnosis(means, phase="discriminator", most=0.95)

    assert of(0.95, 100.0) == ""
    assert of(0.96, 7.0).startswith("the discriminator has won: it tells drawn images from real ones (saturation 0.960")
    assert of(0.96, -7.0).startswith("the discriminator is lost: it takes drawn images for real ones")
