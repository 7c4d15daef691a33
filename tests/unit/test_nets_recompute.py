"""What is computed again in a backward pass is computed with the weights of the first time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gen_dist.nets.recompute import recomputed
from gen_dist.train.engines import Route


class Recomputing(nn.Module):
    """Three layers, all but the last of them computed again."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 8), nn.Softplus())
        self.outer = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(recomputed(self.inner, x))


def penalised(net: object, weights: list[nn.Parameter], x: Tensor) -> list[Tensor]:
    """Gradients of a squared slope, which is differentiated twice."""
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)  # type: ignore[operator]
    slope.square().sum().backward()
    return [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]


@pytest.mark.parametrize("widened", [False, True])
def test_a_penalty_through_it_has_the_gradients_of_layers_that_keep_all(widened: bool) -> None:
    torch.manual_seed(0)
    net, x = Recomputing().to(torch.bfloat16 if widened else torch.float32), torch.randn(5, 4)
    plain = copy.deepcopy(net).float()
    layers = nn.Sequential(*plain.inner, plain.outer)
    wanted = penalised(layers, list(plain.parameters()), x)
    route = Route("net", net, widened=widened)
    found = penalised(route, list(net.parameters()), x)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.abs().sum() > 0 or theirs.abs().sum() == 0
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-2 if widened else 1e-5, atol=1e-6)
