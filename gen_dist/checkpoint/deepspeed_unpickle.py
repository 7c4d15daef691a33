"""A program that turns one DeepSpeed checkpoint into safetensors: the only place where a pickle is loaded.

A pickle may run any code as it is loaded. So this runs in a process of its own, which is given no secrets, for people
who said that they trust the file (see `deepspeed_import.py`); what it writes is then read as data.

    python -m gen_dist.checkpoint.deepspeed_unpickle FOLDER OUT NAMES

FOLDER: a native checkpoint (ZeRO 0 to 3, by tag or with its `latest`) or a universal one. OUT gets `weight`, `exp_avg`,
`exp_avg_sq` and `buffer` .safetensors, by the names that the engine's module gives, and `facts.json`. NAMES: a JSON
list of the parameters that the optimizer updates, because a checkpoint of ZeRO 0 does not say.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


class UnreadableError(Exception):
    """A folder that is no DeepSpeed checkpoint, or one of a kind that is not read."""


def main(folder: Path, out: Path, trained: Collection[str]) -> None:
    """Writes what the checkpoint `folder` holds to the folder `out`; `trained`: what the optimizer updates."""
    if (folder / "latest").is_file():
        folder = folder / (folder / "latest").read_text().strip()
    files = sorted(folder.glob("*mp_rank_00_model_states.pt"))
    if not files:
        raise UnreadableError(f"{folder}: no *mp_rank_00_model_states.pt; name the folder of one checkpoint")
    states = [_load(file) for file in files]
    shapes = _shapes(states[0])
    if shapes is None:
        weights, moments, steps = _unpartitioned(states[0], trained)
    else:
        universal = folder if (folder / "zero").is_dir() else _converted(folder, out / "universal")
        weights, moments, steps = _universal(universal, shapes)
    buffers = _buffers(states, set(weights))
    for section, tensors in {"weight": weights, **moments, "buffer": buffers}.items():
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, out / f"{section}.safetensors")
    steps = steps if steps is not None else int(states[0].get("global_steps", 0))
    (out / "facts.json").write_text(json.dumps({"steps": steps}))


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False)


def _shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of what the optimizer updates; None at ZeRO 0, which does not say."""
    groups = state.get("param_shapes")
    if not groups:
        return None
    return {name: tuple(shape) for name, shape in chain.from_iterable(group.items() for group in groups)}


def _converted(folder: Path, out: Path) -> Path:
    """DeepSpeed's own conversion of a native checkpoint, which knows how each stage lays out its partitions."""
    from deepspeed.checkpoint import ds_to_universal

    out.mkdir(parents=True)
    options = argparse.Namespace(
        input_folder=str(folder),
        output_folder=str(out),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(sys.stderr):
        ds_to_universal.main(options)
    return out


def _universal(
    folder: Path, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], int | None]:
    """Weights, moments and steps of a universal checkpoint; at ZeRO 3 its tensors are flat."""
    weights: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {moment: {} for moment in MOMENTS}
    steps = None
    for name, shape in shapes.items():
        place = folder / "zero" / name
        weights[name] = _param(place / "fp32.pt").reshape(shape).float()
        for moment in MOMENTS:
            if (place / f"{moment}.pt").is_file():
                moments[moment][name] = _param(place / f"{moment}.pt").reshape(shape).float()
        if steps is None and (place / "step.pt").is_file():
            steps = int(_param(place / "step.pt"))
    if steps is None:
        inner = _load(folder / "zero" / "optimizer_state.pt").get("optimizer_state_dict", {}).get("state", {})
        steps = next((int(one["step"]) for one in inner.values() if "step" in one), None)
    return weights, moments, steps


def _param(path: Path) -> Any:
    found = _load(path)
    return found["param"] if isinstance(found, dict) else found


def _unpartitioned(
    state: Mapping[str, Any], trained: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], int | None]:
    """Weights, moments and steps of ZeRO 0, whose optimizer numbers what it updates in the order of the module."""
    module, optimizer = state.get("module"), state.get("optimizer")
    if not isinstance(module, Mapping) or not isinstance(optimizer, Mapping):
        raise UnreadableError("neither partitions nor an optimizer in it; save it with DeepSpeed's save_checkpoint")
    names = [name for name in module if name in trained]
    inner = optimizer.get("optimizer_state_dict", optimizer)
    masters = list(chain.from_iterable(optimizer.get("fp32_groups", []))) or [module[name] for name in names]
    kept = inner.get("state", {})
    if len(masters) != len(names) or (kept and len(kept) != len(names)):
        raise UnreadableError(f"{len(names)} of the model's parameters in it, and {len(masters)} that were optimized")
    weights = {name: master.reshape(module[name].shape).float() for name, master in zip(names, masters, strict=True)}
    moments = {
        moment: {
            name: kept[number][moment].reshape(module[name].shape).float() for number, name in enumerate(names) if kept
        }
        for moment in MOMENTS
    }
    steps = next((int(one["step"]) for one in kept.values() if "step" in one), None)
    return weights, moments, steps


def _buffers(states: list[Any], trained: set[str]) -> dict[str, Tensor]:
    """Buffers and frozen parameters, which universal checkpoints leave out; at ZeRO 3 frozen ones are in parts."""
    state = states[0]
    module = state.get("module") or {}
    found = {name: value for name, value in module.items() if isinstance(value, Tensor) and name not in trained}
    for name, shape in (state.get("frozen_param_shapes") or {}).items():
        parts = [one["frozen_param_fragments"][name].flatten() for one in states]
        numel = torch.Size(shape).numel()
        whole = parts[0] if parts[0].numel() == numel else torch.cat(parts)[:numel]
        found[name] = whole.reshape(tuple(shape))
    return found


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text()))
    except UnreadableError as error:
        sys.exit(str(error))
