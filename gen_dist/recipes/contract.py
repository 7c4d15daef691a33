"""The contract between a recipe and the trainer: fields, groups, phases, and all that a loss may see.

A recipe owns networks, losses and sampling. The trainer owns the loop, accumulation, ZeRO, clipping, precision,
averages and checkpoints. A *group* is a set of networks that one optimizer updates; a *phase* is one optimizer step of
one group (StyleGAN's Dmain, Dreg, Gmain). See README.md in this folder for a recipe written from scratch.

Shapes: B samples of one micro-batch, C channels, H x W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gen_dist.job.errors import GenDistError
from gen_dist.recipes.randomness import Draw

Batch = Mapping[str, Any]
"""Name of a field -> images (B, 3, H, W) float32 in [-1, 1], captions list[str], labels (B,) int64, or an array.

`weight` (B,) float32 is in every batch of data: 1, and 0 for a sample that could not be read. Its slot holds a grey
image, an empty caption and zeros, which no loss may learn from: see `mean`.
"""

Losses = dict[str, Tensor]
"""Named scalars. The trainer descends their sum; every name becomes a metric.

One that is detached is a metric alone: the slope of the sum does not know of it.
"""


def mean(value: Tensor, weight_B: Tensor) -> Tensor:
    """Mean of `value` (B, ...) over all of its numbers, where samples of weight 0 count as zeros: a scalar.

    The divisor stays B, so that micro-batches and workers still add up to the global batch, and an unreadable sample
    takes nothing from the others but its own share.
    """
    return (weight_B * value.reshape(len(value), -1).mean(dim=1)).mean()


class PromptError(GenDistError):
    """A prompt that the recipe cannot draw."""


class DeriveError(GenDistError):
    """A model that computes nothing to be stored of samples."""


NOTHING_DERIVED = "this recipe stores nothing of its samples; name a model of latent_diffusion"


@dataclass(frozen=True)
class Field:
    """One thing a recipe reads of every sample; checked against the shards before training starts."""

    kind: Literal["image", "caption", "label", "array"]
    shape: tuple[int, ...] = ()
    member: str = ""
    """Of an array: the ending of its `.npy` member, such as latent.npy."""
    dtype: str = "float32"
    """Of an array."""


@dataclass(frozen=True)
class Clock:
    """Where a run stands. Images are the only clock of a run; steps are for what happens every so many steps."""

    images: int
    """Images learned from before this step."""
    step: int
    """Optimizer rounds finished before this step."""


@dataclass(frozen=True)
class Group:
    """Networks that one optimizer updates: one engine, one part of a checkpoint."""

    nets: tuple[str, ...]
    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    weight_decays: Mapping[str, float] = field(default_factory=dict)
    """Instead of `weight_decay`, of the parameters below a module of this name, such as attention."""
    average: bool = True
    """Whether samples are drawn from a moving average; False where another network learns from the live weights."""
    span_images: tuple[int, int | None] = (0, None)
    """Images seen at the group's first and after its last step (None: the end of the run); the rates follow it."""

    def decay_of(self, parameter: str) -> float:
        """Weight decay of a parameter by its dotted name."""
        path = parameter.split(".")
        return next((decay for name, decay in self.weight_decays.items() if name in path), self.weight_decay)


@dataclass
class Ctx:
    """All that a loss or a sampler sees: no engine, no rank, no optimizer."""

    nets: Mapping[str, Callable[..., Any]]
    """Trained networks by name. They take and give float32 whatever the precision of the run."""
    frozen: Mapping[str, Callable[..., Any]]
    clock: Clock
    draw: Draw
    device: torch.device
    mean: Callable[[Tensor], Tensor] = lambda value: value.detach()
    """Mean over all workers, without a gradient; identity on one worker."""
    rows: Callable[[Tensor], Tensor] = lambda value: value.detach()
    """Rows (B, ...) of all workers without a gradient, one's own first: candidates of a contrastive loss."""
    scratch: dict[str, Any] = field(default_factory=dict)
    """Lives for one micro-batch of one step: a phase may leave something for a later phase."""


@dataclass(frozen=True)
class Phase:
    """One optimizer step of one group. All others are frozen while it runs."""

    name: str
    group: str
    loss: Callable[[Ctx, Batch], Losses]
    step: bool = True
    """False accumulates gradients into the group's next phase."""
    fresh: bool = False
    """True draws a new global batch for this phase and those after it (several critic steps a round)."""
    full_precision: bool = False
    """True computes in fp32 also in a bf16 run, for the gradient of a gradient; a network at ZeRO-3 stays in bf16."""


class Recipe(ABC):
    """One way to train. Subclasses are plain torch and know nothing of engines, ranks or files."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def batch(self) -> Mapping[str, Field]:
        """What must be read of every sample."""

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Fresh trained networks by name, initialised from torch's global generator, which the trainer seeds."""

    def frozen(self) -> dict[str, nn.Module]:
        """Networks that are used and never trained (a pretrained text encoder)."""
        return {}

    @abstractmethod
    def groups(self) -> dict[str, Group]:
        """Which optimizer updates which networks."""

    @abstractmethod
    def phases(self, clock: Clock) -> Sequence[Phase]:
        """The phases of this step, in order: a pure function of the clock, or ranks would wait for each other."""

    def conditions(self, prompts: Sequence[str]) -> dict[str, Any]:
        """What `sample` is conditioned on, for prompts as a person writes them.

        Raises: GenDistError on an unknown one.
        """
        return {"caption": list(prompts)}

    @property
    def enlarges_px(self) -> int:
        """Side of the images that `sample` starts from, `Settings.enlarges_px`; 0 where it needs none.

        They are `conditions["image"]` (count, 3, side, side) in [-1, 1], beside what `conditions` gives of prompts.
        """
        return int(getattr(self.settings, "enlarges_px", 0))

    def finer(self, prompts: Sequence[str], from_px: int) -> dict[str, Any]:
        """Further conditions: what the levels from `from_px` on are drawn from instead, one prompt for each image.

        Raises: PromptError where there are no such levels, or the recipe knows none.
        """
        raise PromptError("this model has no levels that are drawn from a prompt of their own; leave --fine-prompt out")

    @abstractmethod
    def sample(self, ctx: Ctx, conditions: Batch, count: int) -> Tensor:
        """Images (count, 3, H, W) in [-1, 1]; equal for an equal `ctx.draw`."""

    def evaluate(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        """Scores of a held-out micro-batch, each (B,); the trainer logs their means over the samples of weight 1."""
        return {}

    def diagnosis(self, means: Mapping[str, float]) -> str:
        """Why the run is lost, by its losses since the last log line; empty where it is not. See `train.divergence`.

        `means`: by `phase/name`, over all workers. A pure function: every worker must come to the same answer.
        """
        return ""

    def made_with(self) -> Mapping[str, Mapping[str, str]]:
        """What stored arrays of `batch` must have been computed with: by member, by name. A run on others is refused.

        It equals the second answer of `derives` of the model that they are of.
        """
        return {}

    def derives(self, ctx: Ctx) -> tuple[Mapping[str, Field], Mapping[str, Mapping[str, str]]]:
        """What `derive` reads of a sample, and what it computes its members with, as `made_with`.

        Raises: DeriveError where this model has nothing to store.
        """
        raise DeriveError(NOTHING_DERIVED)

    def derive(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        """The arrays (B, ...) that are stored of samples, by member such as latent.npy; a function of each alone."""
        raise DeriveError(NOTHING_DERIVED)

    def state_dict(self) -> dict[str, Tensor]:
        """State that no network holds (latent statistics, augmentation probability)."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        return None
