"""The fp32 weights and optimizer moments of one engine: this rank's part, or whole and by name at any ZeRO stage.

DeepSpeed keeps them in a different place at each stage and precision; this file is the only one that knows where. Whole
tensors are assembled on all ranks together (a collective call), one parameter at a time.

Stages: 0 in fp32 leaves the client's optimizer as it is; 0 in bf16 wraps it in FP16_UnfusedOptimizer; 1 and 2 hold one
flat partition a rank, linked to each parameter by `_hp_mapping`; 3 holds a flat partition of every parameter. Read from
DeepSpeed 0.19.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from torch import Tensor

from gen_dist.train.engines import GroupEngine

MOMENTS = ("exp_avg", "exp_avg_sq")
"""Adam's two moments, by the names that torch.optim.AdamW gives them."""


def local_masters(member: GroupEngine) -> list[Tensor]:
    """The fp32 weights that this rank updates: whole at stage 0, flat partitions above. Same order on every call."""
    optimizer = member.optimizer
    if member.stage == 3:
        return list(optimizer.fp32_partitioned_groups_flat)
    if member.stage > 0:
        return list(optimizer.single_partition_of_fp32_groups)
    if hasattr(optimizer, "fp32_groups"):
        return [master for group in optimizer.fp32_groups for master in group]
    return [parameter.data for parameter in member.parameters.values()]


def _client_optimizer(member: GroupEngine) -> torch.optim.Optimizer:
    return member.optimizer if isinstance(member.optimizer, torch.optim.Optimizer) else member.optimizer.optimizer


def _stage0_master(member: GroupEngine) -> dict[str, Tensor]:
    """Parameter name -> the tensor that the client's optimizer updates."""
    names = list(member.parameters)
    if hasattr(member.optimizer, "fp32_groups"):
        return dict(zip(names, local_masters(member), strict=True))
    return dict(member.parameters)


def whole_weights(member: GroupEngine) -> Iterator[tuple[str, Tensor]]:
    """(name, fp32 weight) of each parameter. Collective: every rank must run it to its end."""
    member.freeze(False)
    stage0 = _stage0_master(member) if member.stage == 0 else {}
    for name, parameter in member.parameters.items():
        whole = stage0[name].detach() if member.stage == 0 else safe_get_full_fp32_param(parameter)
        yield name, whole.float()


def whole_moments(member: GroupEngine) -> Iterator[tuple[str, str, Tensor]]:
    """(name, moment, value) of each parameter's two Adam moments; nothing before the first step. Collective."""
    member.freeze(False)
    if num_steps(member) == 0:
        return
    stage0 = _stage0_master(member) if member.stage == 0 else {}
    state = _client_optimizer(member).state
    for name, parameter in member.parameters.items():
        for moment in MOMENTS:
            if member.stage == 0:
                yield name, moment, state[stage0[name]][moment]
            else:
                yield name, moment, safe_get_full_optimizer_state(parameter, moment)


def num_steps(member: GroupEngine) -> int:
    """Steps that the optimizer of this group has made."""
    for state in _client_optimizer(member).state.values():
        if "step" in state:
            return int(state["step"])
    return 0


def set_weights(member: GroupEngine, weights: Mapping[str, Tensor]) -> None:
    """Replace the fp32 weights, and those that the networks compute with. Local: every rank passes whole tensors."""
    member.freeze(False)
    stage0 = _stage0_master(member) if member.stage == 0 else {}
    for name, parameter in member.parameters.items():
        whole = weights[name]
        if member.stage == 0:
            stage0[name].data.copy_(whole)
            parameter.data.copy_(whole)
        elif member.stage == 3:
            part = _own_partition(parameter, whole)
            member.optimizer.set_local_hp_param(part, parameter)
            parameter.ds_tensor.data.copy_(part.to(parameter.ds_tensor.dtype))  # type: ignore[attr-defined]
        else:
            _set_fragment(parameter, whole, None)
            parameter.data.copy_(whole)
    if member.stage == 3:
        _refresh_persistent(member)


def set_moments(member: GroupEngine, moments: Mapping[tuple[str, str], Tensor], *, steps: int) -> None:
    """Replace Adam's moments by (name, moment), and its step count. `steps` of 0 leaves a fresh optimizer."""
    if steps == 0:
        return
    member.freeze(False)
    client = _client_optimizer(member)
    masters = [master for param_group in client.param_groups for master in param_group["params"]]
    if member.stage == 3:  # lends its partitions to the client's optimizer for the time of a step only
        masters = local_masters(member)
    for master in masters:
        client.state[master] = {
            "step": torch.tensor(float(steps), device=master.device),
            **{moment: torch.zeros_like(master) for moment in MOMENTS},
        }
    if member.stage in (1, 2):
        member.optimizer._lazy_init_hp_params_optimizer_state()
    stage0 = _stage0_master(member) if member.stage == 0 else {}
    for name, parameter in member.parameters.items():
        for moment in MOMENTS:
            whole = moments[name, moment]
            if member.stage == 0:
                client.state[stage0[name]][moment].copy_(whole)
            elif member.stage == 3:
                member.optimizer.set_local_hp_param(_own_partition(parameter, whole), parameter, moment)
            else:
                _set_fragment(parameter, whole, moment)


def _set_fragment(parameter: Tensor, whole: Tensor, moment: str | None) -> None:
    """Stages 1 and 2: the slice of `whole` that this rank owns, if any."""
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return
    address = mapping.lp_fragment_address
    mapping.get_hp_fragment(moment).data.copy_(whole.flatten().narrow(0, address.start, address.numel))


def _own_partition(parameter: Tensor, whole: Tensor) -> Tensor:
    """Stage 3: this rank's equal part of the padded, flattened parameter."""
    numel = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    flat = whole.flatten().to(parameter.ds_tensor.device)  # type: ignore[attr-defined]
    part = flat[rank * numel : (rank + 1) * numel].float()
    return torch.nn.functional.pad(part, (0, numel - part.numel()))


def _refresh_persistent(member: GroupEngine) -> None:
    """Stage 3 keeps small parameters gathered; gather them again from the partitions just written."""
    persistent = member.optimizer.persistent_parameters
    if persistent:
        persistent[0].partition(persistent)
        persistent[0].all_gather(persistent)
