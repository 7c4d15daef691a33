"""A checkpoint as something to draw from: only its averaged weights, buffers and recipe state are read.

Their files are held against their checksums first, once.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from gen_dist.checkpoint import Checkpoint, CheckpointError, read_model, read_recipe, verify_model
from gen_dist.sample.source import ModelFacts, facts_of


class Trained:
    """A model as a run left it. What the job names lies where the job says."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises: CheckpointError where its manifest says nothing of a model."""
        self.checkpoint = checkpoint
        manifest = checkpoint.manifest
        try:
            self.facts: ModelFacts = facts_of({**manifest.facts, "images": manifest.images, "step": manifest.step})
        except (KeyError, TypeError) as error:
            remedy = "take another checkpoint of the run"
            raise CheckpointError(f"{self.place}: its manifest lacks {error}; {remedy}") from None

    @property
    def place(self) -> str:
        """Address of the checkpoint."""
        return self.checkpoint.url

    def verify(self) -> None:
        """Whether all that drawing reads is as it was written. Raises: CheckpointError where not, StoreError."""
        verify_model(self.checkpoint)

    def weights(self) -> dict[str, Tensor]:
        """Raises: CheckpointError, StoreError."""
        self.verify()
        return read_model(self.checkpoint)

    def recipe_state(self) -> dict[str, Tensor]:
        """Raises: CheckpointError, StoreError."""
        self.verify()
        return read_recipe(self.checkpoint)

    def carried(self, name: str) -> Path | None:
        """Nothing: a checkpoint stays where its run is."""
        return None
