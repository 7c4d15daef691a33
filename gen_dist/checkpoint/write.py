"""Writes a checkpoint: tensors as safetensors, the rest as JSON, visible only when it is whole.

Files of a checkpoint:
  checkpoint.json       where the run stood, the resolved job, versions, data digest, steps by group
  model.safetensors     what samples are drawn from: averaged weights (live ones where a group keeps no average) and
  buffers training.safetensors  live fp32 weights and Adam moments by group: what a resume needs beside the model
  recipe.safetensors    state that no network holds
All tensors are whole, so a checkpoint loads at any number of workers, ZeRO stage and precision.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from gen_dist.checkpoint.folder import name_of

FORMAT = "gen-dist-checkpoint-1"


class CheckpointWriter:
    """Writes one checkpoint below `folder`; nothing of it can be seen before `commit`."""

    def __init__(self, folder: Path, *, images: int) -> None:
        self._final = folder / name_of(images)
        self._draft = folder / f".{name_of(images)}"
        shutil.rmtree(self._draft, ignore_errors=True)
        self._draft.mkdir(parents=True)

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write `name`.safetensors."""
        host = {key: value.detach().to("cpu").contiguous() for key, value in tensors.items()}
        save_file(host, self._draft / f"{name}.safetensors")

    def commit(self, facts: Mapping[str, Any]) -> Path:
        """Write checkpoint.json, make all of it durable, and give it its name."""
        (self._draft / "checkpoint.json").write_text(json.dumps({"format": FORMAT, **facts}, indent=2) + "\n")
        for path in [*self._draft.iterdir(), self._draft]:
            _sync(path)
        if self._final.exists():  # the same point reached again after a resume: the same numbers, the newer write
            replaced = self._final.rename(self._final.with_name(f"{self._draft.name}.old"))
            self._draft.rename(self._final)
            shutil.rmtree(replaced)
        else:
            self._draft.rename(self._final)
        _sync(self._final.parent)
        return self._final


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
