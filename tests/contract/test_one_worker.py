"""One worker alone trains as plain torch does, at every ZeRO stage: at stage 0 it skips DeepSpeed's reduction."""

from __future__ import annotations

import pytest

from tests.contract import distributed
from tests.contract.cases import level_stages, small_case
from tests.contract.test_engines import error, reference
from tests.support.ranks import Ranks

ROUNDING = 1e-6  # a parameter that keeps no step because one phase does not reach it is 1e-5 off


@pytest.mark.parametrize("stage", range(4))
def test_one_worker_trains_as_plain_torch_and_steps_what_a_phase_does_not_reach(single: Ranks, stage: int) -> None:
    case = small_case("dcgan", zero_stages=level_stages("dcgan", stage))
    (found,) = single.run(distributed.train, case)
    wanted = reference("dcgan")
    for name in ("weights", "averages"):
        worst, where = error(found[name], getattr(wanted, name))
        assert worst <= ROUNDING, f"{name}: {where} is off by {worst:.1e}"
