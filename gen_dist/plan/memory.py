"""The memory of one GPU by part, at the moment of a step when it is fullest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gen_dist.plan.states import States
from gen_dist.plan.trace import PhaseCost

CONTEXT_BYTES = 1_500_000_000  # CUDA's context, NCCL's channels, workspaces of cuDNN and cuBLAS: assumed
FRAGMENTED_SHARE = 0.08  # of all else, lost between the allocator's blocks: assumed


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU. They add up to `total`."""

    weights: int
    """Trained networks, buffers, frozen networks."""
    gradients: int
    optimizer: int
    """fp32 masters, Adam's moments, moving average."""
    activations: int
    batch: int
    """The images of a step, which are all on the GPU before it begins, and those of a micro-batch as numbers."""
    buffers: int
    """What gradients and gathered weights are communicated in."""
    margin: int
    """Context and fragmentation: assumed."""
    moment: str
    """When that is."""
    host: int
    """In the memory of the machine, for each GPU."""

    @property
    def total(self) -> int:
        return (
            self.weights + self.gradients + self.optimizer + self.activations + self.batch + self.buffers + self.margin
        )


def gpu_memory(
    states: Mapping[str, States], costs: Mapping[str, PhaseCost], *, frozen_bytes: int, batch_bytes: int
) -> Memory:
    """`states` by group, `costs` by phase."""
    moments = list(_moments(states, costs))
    moment, gradients, activations, buffers = max(moments, key=lambda found: sum(found[1:]))
    every = list(states.values())
    weights = frozen_bytes + sum(state.weights for state in every)
    optimizer = sum(state.optimizer for state in every)
    gradients += sum(state.held_gradients for state in every)
    buffers += sum(state.held_staging for state in every)
    used = weights + optimizer + gradients + activations + buffers + batch_bytes
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        batch=batch_bytes,
        buffers=buffers,
        margin=CONTEXT_BYTES + round(FRAGMENTED_SHARE * used),
        moment=moment,
        host=sum(state.host for state in every),
    )


def _moments(states: Mapping[str, States], costs: Mapping[str, PhaseCost]) -> Iterator[tuple[str, int, int, int]]:
    """(when, gradients, activations, buffers) that come on top of what is always there."""
    for cost in costs.values():
        state = states[cost.group]
        gathered = sum(states[group].gathered for group in cost.called_groups)
        yield f"backward of {cost.name}", state.gradients, cost.activation_bytes, state.staging + gathered
        if cost.steps:
            yield f"step of {cost.group}", state.gradients, 0, state.step
