"""recomputed: activations are computed again in the backward pass instead of kept, a little slower in less memory."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *inputs: Any) -> Any:
    """`module(*inputs)` without what autograd would keep of it; differentiable twice.

    Weights that a caller has put in its place (`functional_call`, as the fp32 copies of a bf16 run's penalty) are
    those of the second time too: by then the module has its own again, which torch's checkpoint alone would take.
    """
    if all(isinstance(value, nn.Parameter) for value in module.parameters()):
        return checkpoint(module, *inputs, use_reentrant=False)
    weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}

    def again(*given: Any) -> Any:
        return functional_call(module, weights, given)

    return checkpoint(again, *inputs, use_reentrant=False)
