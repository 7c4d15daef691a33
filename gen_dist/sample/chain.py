"""Chain: a base model draws small images, and an upsampler enlarges them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gen_dist.job.errors import GenDistError
from gen_dist.sample.model import Model


class ChainError(GenDistError):
    """Two models that do not fit each other."""


class Chain:
    """Draws as `Model` does."""

    def __init__(self, base: Model, upsampler: Model) -> None:
        """Raises: ChainError."""
        given, wanted = base.recipe.settings.image_px, upsampler.recipe.enlarges_px
        if not wanted:
            raise ChainError("--upsampler: that model enlarges nothing; name one of a recipe such as gigagan_upsampler")
        if given != wanted:
            raise ChainError(
                f"the base model draws {given} px and the upsampler enlarges {wanted} px; name a base model of"
                f" {wanted} px, or an upsampler trained with low_px = {given}"
            )
        self._base, self._upsampler = base, upsampler

    def draw(self, prompts: Sequence[str], *, seed: int = 0, fine: tuple[str, int] | None = None) -> np.ndarray:
        """(N, H, W, 3) uint8, of the upsampler's size; its random numbers are others than the base model's.

        `fine`: of the base model, see `Model.draw`.
        """
        return self._upsampler.draw(prompts, seed=~seed, images=self._base.draw(prompts, seed=seed, fine=fine))
