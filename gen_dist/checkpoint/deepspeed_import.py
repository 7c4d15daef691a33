"""From DeepSpeed's checkpoints, one for each engine, to the first checkpoint of a run: nothing is unpickled here.

What DeepSpeed wrote is a pickle and may run any code. It is read by another process without our secrets, and only for
who says that the files are to be trusted; what that process hands over is safetensors and JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from gen_dist.checkpoint.attempts import begin_attempt, note_base
from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.history import candidates
from gen_dist.checkpoint.piece import Piece
from gen_dist.checkpoint.saver import Saver
from gen_dist.store import Store

PROGRAM = "gen_dist.checkpoint.deepspeed_unpickle"
SECTIONS = ("weight", "exp_avg", "exp_avg_sq", "buffer")
PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "OMP_NUM_THREADS", "DS_ACCELERATOR")
TIMEOUT_S = 6 * 3600.0


@dataclass(frozen=True)
class Imported:
    """What one engine's checkpoint held, by the names of its module."""

    steps: int
    """Steps that the optimizer had made."""
    sections: dict[str, dict[str, Tensor]]


def read_deepspeed(folder: Path, *, trained: Collection[str], trust: bool) -> Imported:
    """Reads one engine's checkpoint, native or universal, in another process.

    `trained`: names of the parameters that the optimizer updates.

    Raises: CheckpointError where it is not trusted, or cannot be read.
    """
    if not trust:
        raise CheckpointError(
            f"{folder}: a DeepSpeed checkpoint is a pickle, which can run any code on this machine; add --trust if you"
            " know who wrote it"
        )
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; name the folder that DeepSpeed's save_checkpoint wrote")
    with tempfile.TemporaryDirectory(prefix="gen-dist-import-") as temporary:
        out = Path(temporary)
        names = out / "names.json"
        names.write_text(json.dumps(sorted(trained)))
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        ended = subprocess.run(
            [sys.executable, "-m", PROGRAM, str(folder.absolute()), temporary, str(names)],
            env={**environment, "HOME": temporary, "TMPDIR": temporary, "CUDA_VISIBLE_DEVICES": ""},
            cwd=temporary,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if ended.returncode != 0:
            said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            raise CheckpointError(f"{folder}: DeepSpeed's checkpoint cannot be read ({said[-1]}); name another one")
        steps = int(json.loads((out / "facts.json").read_text())["steps"])
        return Imported(steps, {section: load_file(out / f"{section}.safetensors") for section in SECTIONS})


def import_deepspeed(
    store: Store,
    groups: Mapping[str, Imported],
    *,
    expected: Mapping[str, Mapping[str, tuple[int, ...]]],
    images: int,
    facts: Mapping[str, Any],
    recipe_state: Mapping[str, Tensor] = MappingProxyType({}),
) -> str:
    """Writes the first checkpoint of a run from what its groups' engines held; its name.

    `expected`: group -> name and shape of each of its parameters. `images`: that the model has learned from. `facts`:
    of the checkpoint, to which the groups' steps are added. `recipe_state`: what the recipe keeps beside its networks,
    which DeepSpeed's checkpoints know nothing of. Raises: CheckpointError, StoreError.
    """
    if candidates(store):
        raise CheckpointError(f"{store.url}: holds checkpoints already; import into a run with another name")
    for group, shapes in expected.items():
        _check(group, groups[group].sections["weight"], shapes)
    attempt = begin_attempt(store)
    note_base(store, attempt, None)
    pieces = [
        Piece(f"{section}/{group}/{name}", tuple(value.shape), 0, value.flatten())
        for group, imported in groups.items()
        for section, tensors in imported.sections.items()
        for name, value in tensors.items()
    ]
    pieces += [Piece(f"recipe/{key}", tuple(value.shape), 0, value.flatten()) for key, value in recipe_state.items()]
    steps = {group: imported.steps for group, imported in groups.items()}
    trouble: list[str] = []

    def hear(kind: str, **told: object) -> None:
        if kind != "checkpoint":
            trouble.append(str(told.get("warning", kind)))

    saver = Saver(store, attempt=attempt, rank=0, world_size=1, on_event=hear)
    saver.save(images, max(steps.values(), default=0), pieces, {**facts, "group_steps": steps})
    if not saver.flush(TIMEOUT_S) or saver.committed is None:
        raise CheckpointError(f"{store.url}: not imported, {'; '.join(trouble)}")
    return saver.committed


def _check(group: str, weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """That a checkpoint is of these very networks."""
    where, remedy = f"group {group}", "give the job the model that the checkpoint is of"
    missing, more = sorted(shapes.keys() - weights.keys()), sorted(weights.keys() - shapes.keys())
    if missing or more:
        seen = f"{missing[0]!r} is missing" if missing else f"{more[0]!r} is none of the model's"
        raise CheckpointError(f"{where}: {seen} ({len(missing)} missing, {len(more)} unknown); {remedy}")
    for name, shape in shapes.items():
        if weights[name].shape != torch.Size(shape):
            raise CheckpointError(f"{where}: {name} is {tuple(weights[name].shape)}, the model has {shape}; {remedy}")
