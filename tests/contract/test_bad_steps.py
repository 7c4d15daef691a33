"""A step that is no good on one rank is made on none, at every ZeRO stage: the run goes on as if it were not there.

Against plain torch that leaves the same steps out. Nothing of a dropped step may stay in a buffer of DeepSpeed.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest

from gen_dist.job.spec import NonFiniteSpec
from tests.contract import distributed, plain
from tests.contract.cases import BF16_IMAGES, level_stages, small_case
from tests.contract.conftest import Trainings
from tests.contract.test_engines import BF16, FP32, assert_equal_to, error
from tests.contract.toys import INF_STEP, NAN_STEPS, SPIKE_STEP
from tests.support.ranks import Ranks

LONGEST_NORM = 50.0  # far above all gradients but the spike's, far below that
SKIP = NonFiniteSpec(policy="skip", spike_factor=100.0)
IMAGES = 512  # so that enough steps are before the spike


@cache
def reference(**changes: Any) -> plain.Result:
    changes = {"total_images": IMAGES, **changes}
    return plain.train(small_case("bad_steps", **changes), longest_norm=LONGEST_NORM)


def bad_phases(last_step: int) -> list[tuple[int, str]]:
    """Odd steps have a second phase, on other samples, which is good."""
    steps = [step for step in (*NAN_STEPS, INF_STEP, SPIKE_STEP) if step <= last_step]
    return [(step, "clean") for step in steps]


@pytest.mark.parametrize("clip_norm", [0.1, 0.0])
@pytest.mark.parametrize("stage", range(4))
def test_a_bad_step_on_one_rank_is_made_on_none_and_leaves_nothing(
    trainings: Trainings, stage: int, clip_norm: float
) -> None:
    wanted = reference(clip_norm=clip_norm)
    assert wanted.dropped == bad_phases(SPIKE_STEP)
    changes = {"nonfinite": SKIP, "clip_norm": clip_norm, "total_images": IMAGES}
    trained = trainings("bad_steps", zero_stages=level_stages("bad_steps", stage), **changes)
    for result in trained.results:
        assert [(event["step"], event["phase"]) for event in result["skipped"]] == wanted.dropped
        assert [event["total"] for event in result["skipped"]] == [1, 2, 3, 4]
        assert all(math.isfinite(value) for metrics in result["metrics"] for value in metrics.values())
        assert result["metrics"][-1]["dropped_steps"] == 4.0
        whys = [event["why"] for event in result["skipped"]]
        assert all("no number; clean/error=" in why and "rank 1" in why for why in whys[:3])
        assert "times the median" in whys[3]
    assert_equal_to(wanted, trained, FP32)


@pytest.mark.parametrize("stage", range(4))
def test_a_bad_step_is_dropped_in_bf16_too(trainings: Trainings, stage: int) -> None:
    changes = {"precision": "bf16", "total_images": BF16_IMAGES}
    wanted = reference(**changes)
    trained = trainings("bad_steps", zero_stages=level_stages("bad_steps", stage), nonfinite=SKIP, **changes)
    assert [(event["step"], event["phase"]) for event in trained.results[0]["skipped"]] == wanted.dropped
    found = trained.results[0]["weights"]
    moved, should = (
        np.concatenate([(np.asarray(end[name]) - start.numpy()).ravel() for name, start in wanted.start.items()])
        for end in (found, wanted.weights)
    )
    off = np.linalg.norm(moved - should) / np.linalg.norm(should)
    assert off <= BF16, f"{off:.1e}"


def test_the_comparison_would_see_a_step_that_was_made() -> None:
    made = plain.train(small_case("bad_steps", total_images=IMAGES), longest_norm=math.inf)
    assert made.dropped == bad_phases(INF_STEP)
    assert error(made.weights, reference().weights)[0] > 100 * FP32


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize("policy", ["stop", "rollback", "skip"])
def test_a_job_that_does_not_skip_ends_its_group_on_all_ranks_before_the_weights_move(
    pair: Ranks, stage: int, policy: str
) -> None:
    spec = NonFiniteSpec(policy=policy, max_skips=1, rollback_checkpoints=2)  # type: ignore[arg-type]
    case = small_case("bad_steps", zero_stages=level_stages("bad_steps", stage), nonfinite=spec)
    answers = pair.run(distributed.train_until_refused, case)
    assert answers[0] == answers[1]
    kind, text, arguments = answers[0]
    batch, fresh = case.job.train.global_batch_images, NAN_STEPS[0] // 2  # odd steps before draw a batch more
    at = (NAN_STEPS[0] + fresh) * batch
    if policy == "rollback":
        assert kind == "RollbackWanted"
        assert arguments[:3] == (2, at + 2 * batch, at), "after all images of the bad step"
        return
    assert kind == "NonFiniteLossError"
    step = NAN_STEPS[0] if policy == "stop" else NAN_STEPS[1]
    assert f"(step {step})" in text
    assert "clean/error=nan at rank 1" in text
    assert "lower the learning rate" in text
    assert len(text.splitlines()) == 1
