"""The meter counts what a convolution computes, forwards and backwards, in groups and transposed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from gen_dist.plan.meter import Meter


def trained(groups: int, *, transposed: bool, with_gradient: bool = True) -> None:
    """One pass forwards and one backwards, of 6 channels to 12."""
    x = torch.randn(3, 6, 8, 8, requires_grad=with_gradient)
    shape = (6, 12 // groups, 3, 3) if transposed else (12, 6 // groups, 3, 3)
    convolve: Any = F.conv_transpose2d if transposed else F.conv2d
    convolve(x, torch.randn(shape, requires_grad=True), groups=groups, padding=1, stride=2).sum().backward()


@pytest.mark.parametrize("with_gradient", [True, False])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_costs_what_torch_counts(transposed: bool, with_gradient: bool) -> None:
    with FlopCounterMode(display=False) as counted:
        trained(1, transposed=transposed, with_gradient=with_gradient)
    with FakeTensorMode(), Meter() as meter:
        trained(1, transposed=transposed, with_gradient=with_gradient)
    assert meter.flops == counted.get_total_flops()


@pytest.mark.parametrize("transposed", [False, True])
def test_in_groups_it_costs_as_much_less_as_there_are_groups(transposed: bool) -> None:
    flops = []
    for groups in (1, 3):
        with FakeTensorMode(), Meter() as meter:
            trained(groups, transposed=transposed)
        flops.append(meter.flops)
    assert flops[0] == 3 * flops[1]
