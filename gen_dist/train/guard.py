"""Which steps may be made: none whose gradient is no number on any worker, none that is a spike; and which runs go on.

The verdict rests on the norm of the reduced gradient, or on means over all workers, which are the same on all of them;
so they agree without a word.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import DivergenceSpec, NonFiniteSpec

WINDOW_STEPS = 64
FEWEST_STEPS = 16  # before any is a spike: a median of a few says little


class NonFiniteLossError(GenDistError):
    """A loss or a gradient that is no longer a number."""


class DivergenceError(GenDistError):
    """A run that its recipe calls lost."""


class RollbackWanted(Exception):  # noqa: N818  no error: the group ends so that the next one begins further back
    """The weights are to go back some checkpoints, and the data on."""

    def __init__(self, checkpoints: int, after_position: int, images: int, why: str) -> None:
        """`after_position`: of the first sample after the bad ones; `images`: learned from before them."""
        self.checkpoints, self.after_position, self.images, self.why = checkpoints, after_position, images, why
        super().__init__(checkpoints, after_position, images, why)

    def __str__(self) -> str:
        return f"{self.why}: back {self.checkpoints} checkpoint(s), data from position {self.after_position} on"


class Guard:
    """Judges the steps of all groups. `state` is what a checkpoint keeps, so that a resumed run judges alike."""

    def __init__(
        self,
        spec: NonFiniteSpec,
        *,
        divergence: DivergenceSpec = DivergenceSpec(),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        state = state or {}
        self.spec, self.divergence = spec, divergence
        self._norms = {name: deque(norms, maxlen=WINDOW_STEPS) for name, norms in state.get("norms", {}).items()}
        self.num_dropped = int(state.get("num_dropped", 0))
        """Steps that were not made, in the whole run."""
        self.num_in_row = int(state.get("num_in_row", 0))
        self._lost_since: int | None = state.get("lost_since_images")

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        norms = {name: list(seen) for name, seen in self._norms.items()} if self.spec.spike_factor else {}
        counts = {"num_dropped": self.num_dropped, "num_in_row": self.num_in_row}
        return {"norms": norms, **counts, "lost_since_images": self._lost_since}

    def objection(self, name: str, norm: float) -> str:
        """Why the step of a group (or phase) with this gradient may not be made; empty where it may."""
        if not math.isfinite(norm) or norm < 0:
            return "a loss or gradient that is no number"
        seen = self._norms.setdefault(name, deque(maxlen=WINDOW_STEPS))
        if self.spec.spike_factor and len(seen) >= FEWEST_STEPS:
            median = statistics.median(seen)
            if norm > self.spec.spike_factor * median:
                return f"a gradient of {norm:.4g}, {norm / max(median, 1e-30):.3g} times the median"
        if self.spec.spike_factor:
            seen.append(norm)
        return ""

    def made(self) -> None:
        """A whole step went well."""
        self.num_in_row = 0

    def dropped(self) -> bool:
        """A step was not made. Returns whether that was one too many in a row."""
        self.num_dropped += 1
        self.num_in_row += 1
        return self.num_in_row > self.spec.max_skips

    def verdict(self, diagnosis: str, *, images: int) -> str:
        """Why the run is lost, where its recipe has said so (`diagnosis`) at each log line for long enough.

        It is not said again before as long has passed once more.
        """
        since = images if self._lost_since is None else self._lost_since
        self._lost_since = since if diagnosis else None
        if not diagnosis or images - since < self.divergence.patience_images:
            return ""
        self._lost_since = None
        return diagnosis

    def forgive(self) -> None:
        """The weights went back: their game is to be judged anew."""
        self._lost_since = None


def poisoned(loss: Tensor) -> Tensor:
    """The loss; where it is no number, its gradient is none either, so that all workers see it in theirs.

    Of an infinite loss the gradient may well be finite.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)


def names(losses: Sequence[tuple[str, Mapping[str, Tensor]]]) -> list[str]:
    """The losses that are no numbers, as `phase/name=value`."""
    return [
        f"{phase}/{name}={float(value):g}"
        for phase, some in losses
        for name, value in some.items()
        if not math.isfinite(float(value))
    ]
