"""The fp32 weights and Adam moments of one engine that this rank updates: its masters, wherever DeepSpeed keeps them.

DeepSpeed keeps them in a different place at each ZeRO stage and precision; this file and `fragments.py`, which says
what parameter each number belongs to, are the only ones that know where. Read from DeepSpeed 0.19.8.

Stages: 0 in fp32 leaves the client's optimizer as it is; 0 in bf16 wraps it in FP16_UnfusedOptimizer; 1 and 2 hold one
flat partition a rank, linked to each parameter by `_hp_mapping`; 3 holds a flat partition of every parameter.
"""

from __future__ import annotations

from collections.abc import Iterator

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import Tensor

from gen_dist.train.engines import GroupEngine

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's two moments, by the names that torch.optim.AdamW gives them."""


def local_masters(member: GroupEngine) -> list[Tensor]:
    """The fp32 weights that this rank updates: whole at stage 0, flat partitions above. Same order on every call."""
    if member.stage == 0 and not hasattr(member.optimizer, "fp32_groups"):
        return [parameter.data for parameter in member.parameters.values()]
    return _optimized(member)


def _optimized(member: GroupEngine) -> list[Tensor]:
    """The masters, as the very objects by which the client's optimizer knows them."""
    optimizer = member.optimizer
    if member.stage == 3:
        return list(optimizer.fp32_partitioned_groups_flat)
    if member.stage > 0:
        return list(optimizer.single_partition_of_fp32_groups)
    if hasattr(optimizer, "fp32_groups"):
        return [master for group in optimizer.fp32_groups for master in group]
    return list(member.parameters.values())


def _client_optimizer(member: GroupEngine) -> torch.optim.Optimizer:
    return member.optimizer if isinstance(member.optimizer, torch.optim.Optimizer) else member.optimizer.optimizer


def local_moments(member: GroupEngine, moment: str) -> list[Tensor]:
    """One of `MOMENTS` for each master, of its shape; only after the first step or `start_moments`."""
    state = _client_optimizer(member).state
    return [state[master][moment] for master in _optimized(member)]


def start_moments(member: GroupEngine, *, steps: int) -> None:
    """Give the optimizer moments of zero after `steps` steps, for values from a checkpoint to be written into."""
    state = _client_optimizer(member).state
    for master in _optimized(member):
        zeros = {moment: torch.zeros_like(master, requires_grad=False) for moment in MOMENTS}
        state[master] = {"step": torch.tensor(float(steps), device=master.device), **zeros}
    if member.stage in (1, 2):  # DeepSpeed's own views of the moments
        member.optimizer._hp_optimizer_states_linked = False
        member.optimizer._lazy_init_hp_params_optimizer_state()


def num_steps(member: GroupEngine) -> int:
    """Steps that the optimizer of this group has made."""
    for state in _client_optimizer(member).state.values():
        if "step" in state:
            return int(state["step"])
    return 0


def whole_weights(member: GroupEngine) -> Iterator[tuple[str, Tensor]]:
    """(name, fp32 weight) of each parameter. Collective: every rank must run it to its end."""
    member.freeze(False)
    if member.stage == 0:
        for name, master in zip(member.parameters, local_masters(member), strict=True):
            yield name, master.detach().float()
        return
    for name, parameter in member.parameters.items():
        yield name, safe_get_full_fp32_param(parameter).float()


def whole_fixed(member: GroupEngine) -> Iterator[tuple[str, Tensor]]:
    """(name, copy) of buffers, and of parameters of the networks that no optimizer updates. Collective."""
    for name, buffer in member.box.named_buffers():
        yield name, buffer.detach().clone()
    for name, parameter in member.box.named_parameters():
        if name not in member.parameters:
            with deepspeed.zero.GatheredParameters([parameter], enabled=member.stage == 3):
                yield name, parameter.detach().clone()


@torch.no_grad()
def spread_masters(member: GroupEngine) -> None:
    """Bring the masters, just written, into the weights that the networks compute with. Collective."""
    if member.stage in (1, 2):
        member.optimizer.update_lp_params()
    elif member.stage == 3:
        for parameter in member.parameters.values():
            number, offset, numel = member.optimizer.grad_position[member.optimizer.get_param_id(parameter)]
            master = member.optimizer.fp32_partitioned_groups_flat[number]
            parameter.ds_tensor.data.copy_(master.data[offset : offset + numel])  # type: ignore[attr-defined]
        _refresh_persistent(member)
    elif hasattr(member.optimizer, "fp32_groups"):
        for parameter, master in zip(member.parameters.values(), local_masters(member), strict=True):
            parameter.data.copy_(master)


def _refresh_persistent(member: GroupEngine) -> None:
    """Stage 3 keeps small parameters gathered; gather them again from the partitions just written."""
    persistent = member.optimizer.persistent_parameters
    if persistent:
        persistent[0].partition(persistent)
        persistent[0].all_gather(persistent)
