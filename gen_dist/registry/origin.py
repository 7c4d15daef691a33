"""Origin: the checkpoint that a model is of, or an export. All that the registry knows of checkpoints is here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from gen_dist.checkpoint import Checkpoint, Name, candidates, open_checkpoint, pin
from gen_dist.checkpoint.attempts import base_of
from gen_dist.registry import weights
from gen_dist.registry.runs import readable
from gen_dist.sample.model import Model
from gen_dist.sample.source import FACTS, Exported, ModelSource
from gen_dist.sample.trained import Trained
from gen_dist.store import Store, StoreError, open_store


class Origin:
    """What a version was made of."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._trained = source if isinstance(source, Trained) else None
        self._checkpoint: Checkpoint | None = self._trained.checkpoint if self._trained is not None else None

    @property
    def name(self) -> str:
        """Of the checkpoint, among those of its run."""
        return self._source.place.rstrip("/").rpartition("/")[2]

    @property
    def url(self) -> str:
        """Where the checkpoints of its run are."""
        return self._source.place.rstrip("/").rpartition("/")[0]

    @property
    def images(self) -> int:
        """Images that it learned from."""
        return self._source.facts.images

    @property
    def job(self) -> Mapping[str, Any]:
        """The resolved job."""
        return self._source.facts.job

    @property
    def data_digest(self) -> str:
        """Of the data that it learned from."""
        return self._source.facts.data_digest

    def sha256(self) -> str:
        """Of what it says about itself, which names all of it."""
        if self._checkpoint is not None:
            return self._checkpoint.manifest_sha256
        assert isinstance(self._source, Exported)
        return hashlib.sha256((self._source.folder / FACTS).read_bytes()).hexdigest()

    def verify(self) -> None:
        """Hold a checkpoint against its checksums, as far as drawing reads it. Raises: CheckpointError, StoreError."""
        if self._trained is not None:
            self._trained.verify()

    def tensors(self) -> dict[str, Tensor]:
        """All that drawing reads, see `weights.drawing`. Raises: CheckpointError, StoreError."""
        return weights.drawing(self._source.weights(), self._source.recipe_state())

    def draw(self, prompt: str, *, seed: int) -> np.ndarray:
        """(1, H, W, 3) uint8. An upsampler enlarges a grey image, to which it adds its noise."""
        model = Model.load(self._source)
        side = model.recipe.enlarges_px
        grey = np.full((1, side, side, 3), 128, dtype=np.uint8) if side else None
        return model.draw([prompt], seed=seed, images=grey)

    def resumed_from(self) -> str:
        """Name of the checkpoint that its worker group went on from; empty for one that began the run, and an export.

        Raises: StoreError.
        """
        if self._checkpoint is None:
            return ""
        return base_of(self._checkpoint.store, self._checkpoint.manifest.name.attempt) or ""

    def hold(self, *, by: str) -> None:
        """Keep clean-up from it, where it is a checkpoint of a run. Raises: CheckpointError, StoreError."""
        if self._checkpoint is not None:
            pin(self._checkpoint.store, self._checkpoint.name, by=by)

    def others(self) -> Iterator[Origin]:
        """The other checkpoints of the same run, oldest first; those that cannot be read are passed over."""
        if self._checkpoint is not None:
            for found in sorted(readable(self._checkpoint.store), key=lambda other: other.manifest.images):
                if found.name != self.name:
                    yield Origin(Trained(found))


def find_origin(url: str, name: str) -> Origin | None:
    """The checkpoint `name` among those at `url`; None where it is not seen from here. Raises: CheckpointError."""
    if not url or Name.parse(name) is None:
        return None
    try:
        store: Store = open_store(url)
        return Origin(Trained(open_checkpoint(store, name))) if name in candidates(store) else None
    except StoreError:
        return None
