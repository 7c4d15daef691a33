"""Origin: the checkpoint that a model is of. All that the registry knows of checkpoints is here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gen_dist import checkpoint
from gen_dist.registry import weights
from gen_dist.sample.model import Model


class Origin:
    """A checkpoint of a run, or an export of one. Raises: CheckpointError where it is neither."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manifest = checkpoint.read_manifest(folder)

    @property
    def name(self) -> str:
        """Of the checkpoint, among those of its run."""
        return self._folder.name

    @property
    def url(self) -> str:
        """Where the checkpoints of its run are."""
        return str(self._folder.absolute().parent)

    @property
    def images(self) -> int:
        """Images that it learned from."""
        return self._manifest.images

    @property
    def job(self) -> Mapping[str, Any]:
        """The resolved job."""
        return self._manifest.job

    @property
    def data_digest(self) -> str:
        """Of the data that it learned from."""
        return self._manifest.data_digest

    @property
    def is_kept_by_a_run(self) -> bool:
        """Whether it is a checkpoint that clean-up may remove."""
        return self._folder in checkpoint.checkpoints(self._folder.parent)

    def sha256(self) -> str:
        """Of what it says about itself, which names all of it."""
        return hashlib.sha256((self._folder / "checkpoint.json").read_bytes()).hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """All that drawing reads, see `weights.drawing`."""
        return weights.drawing(checkpoint.read_model(self._folder), checkpoint.read_recipe(self._folder))

    def draw(self, prompt: str, *, seed: int) -> np.ndarray:
        """(1, H, W, 3) uint8."""
        return Model.load(self._folder).draw([prompt], seed=seed)

    def resumed_from(self) -> str:
        """Name of the checkpoint that the last start before this one went on from; empty for a run without a break."""
        log, found = Path(self.url).parent / "events.jsonl", ""
        if not log.is_file():
            return found
        with log.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if '"start"' not in line:
                    continue
                try:
                    event = json.loads(line)
                    if event["kind"] == "start" and event["images"] <= self.images:
                        found = Path(event.get("resumed_from") or "").name
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a dying process cut
        return found

    def others(self) -> Iterator[Origin]:
        """The other checkpoints of the same run, oldest first; broken ones are passed over."""
        for folder in checkpoint.checkpoints(self._folder.parent):
            if folder.name != self.name:
                try:
                    yield Origin(folder)
                except checkpoint.CheckpointError:
                    continue


def find_origin(url: str, name: str) -> Origin | None:
    """The checkpoint `name` among those at `url`; None where it is not seen from here. Raises: CheckpointError."""
    folder = Path(url) / name
    return Origin(folder) if url and name and (folder / "checkpoint.json").is_file() else None
