"""Recipes that would train wrongly, or nothing at all, are refused before a step is made of their losses.

A loss that reaches no parameter of its group moves nothing: `check_wiring` walks the graph of each phase's first one.
A loss that differentiates through a group at ZeRO-3 (a gradient penalty) would go through hooks that cannot be
differentiated, to wrong gradients or to an error of torch that names none of this: see rule 3 of `engines.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor, nn

from gen_dist.job.errors import GenDistError


class WiringError(GenDistError):
    """A recipe whose phase cannot train its group."""


def check_wiring(loss: Tensor, parameters: Collection[nn.Parameter], *, phase: str, group: str) -> None:
    """`parameters`: those of the group that the phase trains. Raises: WiringError."""
    own = {id(parameter) for parameter in parameters}
    if not any(id(getattr(node, "variable", None)) in own for node in _nodes(loss.grad_fn)):
        raise WiringError(
            f"phase {phase}: its loss reaches no parameter of the group {group!r}, so it would train nothing; let it"
            " call the group's networks as ctx.nets[NAME], outside of torch.no_grad(), and detach none of them"
        )


def _nodes(root: Any) -> Iterator[Any]:
    """Every node of a graph once."""
    seen, left = set(), [root]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [following for following, _ in node.next_functions]
        yield node
