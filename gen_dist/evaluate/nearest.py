"""Does a drawing look like what its caption says: the category of the nearest real image, against chance.

For captions that were trained on. It measures recognisability, not novelty: a model that copies scores high.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gen_dist.data.stream import Stream
from gen_dist.evaluate.features import describe
from gen_dist.sample.model import Model


@dataclass(frozen=True)
class Score:
    """Shares are of all captions drawn."""

    captions: int
    category_share: float
    """Drawings whose nearest real image has their caption's category."""
    category_chance: float
    """The same for a real image picked at random in place of the drawing."""
    own_image_share: float
    """Drawings whose nearest real image is the very one of their caption."""
    own_image_chance: float
    standard_error: float
    """Of `category_share`, over the choice of captions."""

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def score(model: Model, stream: Stream, *, count: int, seed: int = 0) -> Score:
    """Draw `count` training captions (at most one epoch, in the stream's order) and look each drawing up.

    The stream gives `image`, `caption` and `label`, the category.
    """
    everything = stream.batch(0, stream.num_samples)
    real = describe(_rows(everything["image"]))
    labels = torch.as_tensor(everything["label"])
    count = min(count, stream.num_samples)
    drawn = describe(model.draw(list(everything["caption"])[:count], seed=seed))
    nearest = torch.cdist(drawn, real).argmin(dim=1)
    category_share = (labels[nearest] == labels[:count]).float().mean().item()
    frequency = torch.bincount(labels).float() / len(labels)
    return Score(
        captions=count,
        category_share=category_share,
        category_chance=frequency[labels[:count]].mean().item(),
        own_image_share=(nearest == torch.arange(count)).float().mean().item(),
        own_image_chance=1.0 / stream.num_samples,
        standard_error=math.sqrt(category_share * (1.0 - category_share) / count),
    )


def _rows(image_N3HW: Any) -> np.ndarray:
    return np.ascontiguousarray(torch.as_tensor(image_N3HW).permute(0, 2, 3, 1).numpy())
