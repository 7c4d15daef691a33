"""Activations that are not kept: a layer is computed again in the backward pass, with the weights of the first time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def computed_again(layer: nn.Module, *inputs: Any) -> Any:
    """`layer(*inputs)`, of which the backward pass keeps the inputs alone; differentiable as often as the layer is.

    `torch.func.functional_call` gives a network other weights while it is called. They are gone when the backward pass
    comes, so the layer is called with them again by name. Weights of its own are left where they are: ZeRO-3 gathers
    these whenever the layer is called.
    """
    if not torch.is_grad_enabled():
        return layer(*inputs)
    lent: dict[str, Tensor] = {
        name: value for name, value in layer.named_parameters() if not isinstance(value, nn.Parameter)
    }
    lent |= dict(layer.named_buffers())  # they do not tell whether they are lent
    if not lent:
        return checkpoint(layer, *inputs, use_reentrant=False)
    return checkpoint(torch.func.functional_call, layer, lent, inputs, use_reentrant=False)
