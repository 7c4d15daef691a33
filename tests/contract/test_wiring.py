"""T12: a recipe that is wired wrongly is refused before its first step; rightly, it trains as plain torch does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gen_dist.train.wiring import WiringError, check_wiring
from tests.contract import distributed, plain
from tests.contract.cases import level_stages, small_case
from tests.contract.conftest import Trainings
from tests.contract.test_engines import FP32, assert_equal_to
from tests.support.ranks import Ranks


@pytest.fixture(scope="module")
def reference() -> plain.Result:
    return plain.train(small_case("penalty"))


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_penalty_trains_as_plain_torch_does(trainings: Trainings, reference: plain.Result, stage: int) -> None:
    assert_equal_to(reference, trainings("penalty", zero_stages=level_stages("penalty", stage)), FP32)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_penalty_at_zero_3_is_refused_on_every_rank(pair: Ranks, precision: str) -> None:
    case = small_case("penalty", zero_stages=level_stages("penalty", 3), precision=precision)
    for kind, text, _ in pair.run(distributed.train_until_refused, case):
        assert kind == "WiringError"
        assert text.startswith("group all: a loss differentiates through its networks, which ZeRO-3 cannot; set train.")


def test_a_loss_that_trains_nothing_is_refused() -> None:
    own, other = nn.Linear(3, 1), nn.Linear(3, 1)
    images = torch.randn(2, 3)
    for loss in (other(images).sum(), torch.zeros(()), (own(images).detach() * other.bias).sum()):
        with pytest.raises(WiringError, match=r"phase real: its loss reaches no parameter of the group 'critic'"):
            check_wiring(loss, list(own.parameters()), phase="real", group="critic")
    check_wiring(own(other(images).expand(2, 3)).sum(), list(own.parameters()), phase="real", group="critic")
