"""What this rank holds of each parameter of an engine, as a checkpoint keeps it: no gather, no padding, nothing twice.

At every ZeRO stage and precision a rank's fp32 weights lie in a list of tensors, its masters (`masters.py`). Adam's
moments and the moving average lie in lists beside it, of the same shapes. So one layout, a list of fragments, says for
all of them where a stretch of a parameter is; a checkpoint holds such stretches and can be read in others. That is how
it loads at another stage, precision or number of workers.

Keys of a checkpoint: `section/group/parameter`, with the sections
  weight, average, exp_avg, exp_avg_sq   of trained parameters, fp32
  buffer                                 buffers, and parameters of the networks that no optimizer updates
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gen_dist.checkpoint import Checkpoint, CheckpointError, Piece, Slice
from gen_dist.train.engines import GroupEngine
from gen_dist.train.masters import MOMENTS, local_masters, local_moments, num_steps, spread_masters, start_moments


@dataclass(frozen=True)
class Fragment:
    """A stretch of one parameter, and where it lies in this rank's masters."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    """First element, in the flattened parameter."""
    numel: int
    master: int
    """Which of the masters it lies in."""
    offset: int
    """First element, in the flattened master."""

    def of(self, flat: Sequence[Tensor]) -> Tensor:
        """Its values (numel,) in the masters, or in a list beside them, each of them flattened."""
        return flat[self.master][self.offset : self.offset + self.numel]

    def put(self, tensors: Sequence[Tensor], values: Tensor) -> None:
        """Write its values there."""
        tensor = tensors[self.master].detach()
        if tensor.numel() == self.numel:
            tensor.copy_(values.view(tensor.shape))  # in any memory format
        else:
            tensor[self.offset : self.offset + self.numel].copy_(values)


def layout(member: GroupEngine) -> list[Fragment]:
    """All that this rank's masters hold, in the order of the parameters; at stage 0 everything, on each rank."""
    found, rank = [], _rank()
    for number, (name, parameter) in enumerate(member.parameters.items()):
        if member.stage == 0:
            found.append(Fragment(name, tuple(parameter.shape), 0, parameter.numel(), number, 0))
        elif member.stage == 3:
            own = _partition(parameter, rank)
            master, offset, _ = member.optimizer.grad_position[member.optimizer.get_param_id(parameter)]
            found.append(Fragment(name, own.shape, own.start, own.numel, master, offset))
        elif (mapping := parameter._hp_mapping) is not None:  # type: ignore[attr-defined]
            here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
            shape = tuple(parameter.shape)
            found.append(Fragment(name, shape, there.start, there.numel, mapping.param_group_index, here.start))
    return [fragment for fragment in found if fragment.numel > 0]


def share(fragments: Sequence[Fragment], *, rank: int, size: int) -> list[Fragment]:
    """One rank's equal part of fragments that all ranks hold."""
    total = sum(fragment.numel for fragment in fragments)
    first, end = total * rank // size, total * (rank + 1) // size
    own, position = [], 0
    for fragment in fragments:
        skipped = max(0, first - position)
        numel = min(end - position, fragment.numel) - skipped
        if numel > 0:
            start, offset = fragment.start + skipped, fragment.offset + skipped
            own.append(replace(fragment, start=start, offset=offset, numel=numel))
        position += fragment.numel
    return own


def pieces(member: GroupEngine, average: Sequence[Tensor], *, rank: int, size: int) -> list[Piece]:
    """What this rank writes of the engine; `average` lies beside the masters, or is empty. Nothing is copied yet.

    Buffers change in a forward; all else lasts until `GroupEngine.before_change` is called.
    """
    own = layout(member)
    if member.stage == 0:
        own = share(own, rank=rank, size=size)
    sections = {"weight": local_masters(member), "average": average}
    if num_steps(member) > 0:
        sections |= {moment: local_moments(member, moment) for moment in MOMENTS}
    found = []
    for section, tensors in sections.items():
        flat = [tensor.detach().flatten() for tensor in tensors]
        for one in own if flat else ():
            key = f"{section}/{member.name}/{one.name}"
            found.append(Piece(key, one.shape, one.start, one.of(flat), lasting=True))
    for held in _unoptimized(member):
        if held.split or rank == 0:
            key, values = f"buffer/{member.name}/{held.name}", held.values.flatten()
            found.append(Piece(key, held.shape, held.start, values, lasting=held.fixed))
    return found


@torch.no_grad()
def restore(member: GroupEngine, average: Sequence[Tensor], checkpoint: Checkpoint, *, steps: int) -> None:
    """Read this rank's part of the engine, whatever wrote it. Where there is no average, it starts at the weights.

    Collective. Raises: CheckpointError, StoreError.
    """
    own, masters = layout(member), local_masters(member)
    sections: dict[str, Sequence[Tensor]] = {"weight": masters}
    if steps > 0:
        start_moments(member, steps=steps)
        sections |= {moment: local_moments(member, moment) for moment in MOMENTS}
    averaged = set(checkpoint.keys(f"average/{member.name}"))
    if average and averaged:
        sections["average"] = average
    for section, tensors in sections.items():
        keys = [f"{section}/{member.name}/{fragment.name}" for fragment in own]
        read = _read(checkpoint, [(key, one.shape, one.start, one.numel) for key, one in zip(keys, own, strict=True)])
        for fragment, values in zip(own, read, strict=True):
            fragment.put(tensors, values)
    held = list(_unoptimized(member))
    read = _read(checkpoint, [(f"buffer/{member.name}/{one.name}", one.shape, one.start, one.numel) for one in held])
    for one, values in zip(held, read, strict=True):
        one.values.copy_(values.view(one.values.shape))
    if average and not averaged:
        torch._foreach_copy_(list(average), masters)
    spread_masters(member)


def _read(checkpoint: Checkpoint, wanted: Sequence[tuple[str, tuple[int, ...], int, int]]) -> list[Tensor]:
    """Slices by (key, shape of the whole, start, numel). Raises: CheckpointError where a shape is another."""
    for key, shape, _, _ in wanted:
        if checkpoint.shape(key) != shape:
            raise CheckpointError(
                f"{checkpoint.url}: {key} has the shape {checkpoint.shape(key)}, the network wants {shape}; give the"
                " job another name to start afresh, or put the recipe back as it was"
            )
    return checkpoint.read_all([Slice(key, start, numel) for key, _, start, numel in wanted])


@dataclass(frozen=True)
class _Held:
    """A tensor of the networks that no optimizer updates, or this rank's partition of it."""

    name: str
    shape: tuple[int, ...]
    start: int
    numel: int
    values: Tensor
    """A view of it: what is written here is in the network."""
    split: bool
    """Whether each rank holds another part."""
    fixed: bool = True
    """Whether nothing ever changes it."""


def _unoptimized(member: GroupEngine) -> Iterator[_Held]:
    rank = _rank()
    for name, buffer in member.box.named_buffers():
        yield _Held(name, tuple(buffer.shape), 0, buffer.numel(), buffer.detach(), split=False, fixed=False)
    for name, parameter in member.box.named_parameters():
        if name in member.parameters:
            continue
        if not hasattr(parameter, "ds_tensor"):
            yield _Held(name, tuple(parameter.shape), 0, parameter.numel(), parameter.detach(), split=False)
        elif (own := _partition(parameter, rank)).numel > 0:
            yield replace(own, name=name)


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def _partition(parameter: Any, rank: int) -> _Held:
    """Stage 3: this rank's equal part of the flattened parameter, without what pads the last one."""
    padded = parameter.ds_tensor.ds_numel
    start = rank * padded
    numel = max(0, min(padded, parameter.ds_numel - start))
    values = parameter.ds_tensor.detach()[:numel]
    return _Held("", tuple(parameter.ds_shape), start, numel, values, split=True)
