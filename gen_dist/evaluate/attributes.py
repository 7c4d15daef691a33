"""Does a drawing show what its caption says, attribute by attribute: read by a network that learned from real images.

The reader never sees a drawing while it learns, nor the model a label: a high share means that the model reads its
captions and draws what they say. For data whose samples name the value of every attribute, a whole number in a member
of JSON.

Shapes: N images, H x W pixels, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Labels = Mapping[str, Tensor]
"""Name of an attribute -> (N,) int64, the number of its value."""

WIDTHS = (32, 64, 96)
BATCH_IMAGES = 64
LEARNING_RATE = 2e-3
SHIFT_PX = 2  # of the images it learns from, up to: a drawing is never placed to the pixel


@dataclass(frozen=True)
class AttributeScore:
    """Shares are of the drawings."""

    share: float
    """Read as the value that the caption says."""
    chance: float
    """The same for a drawing whose value has nothing to do with the caption's: that of the commonest value."""
    standard_error: float
    """Of `share`, over the choice of captions."""
    reader_share: float
    """Of real images that the reader never saw, those it reads right: no model can be told to be better than this."""

    def facts(self) -> dict[str, float]:
        """As JSON can hold it."""
        return asdict(self)


class Reader(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] -> logits (N, values) of each attribute. Knows places: no pooling to one point."""

    def __init__(self, values: Mapping[str, int], *, side_px: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.SiLU()]
            before = width
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(min(4, side_px // 8)), nn.Flatten())
        features = before * min(4, side_px // 8) ** 2
        self.heads = nn.ModuleDict({name: nn.Linear(features, count) for name, count in values.items()})

    def forward(self, image_N3HW: Tensor) -> dict[str, Tensor]:
        """Logits by attribute."""
        features_NC = self.trunk(image_N3HW)
        return {name: head(features_NC) for name, head in self.heads.items()}


def learn(images_N3HW: Tensor, labels: Labels, *, num_steps: int, seed: int = 0) -> Reader:
    """A reader of real images, uint8 (N, 3, H, W). The same arguments give the same one on the same machine."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = {name: int(value.max()) + 1 for name, value in labels.items()}
        reader = Reader(values, side_px=images_N3HW.shape[-1])
        optimizer = torch.optim.AdamW(reader.parameters(), LEARNING_RATE)
        for step in range(num_steps):
            rows = torch.randint(len(images_N3HW), (BATCH_IMAGES,))
            shift = [int(value) for value in torch.randint(-SHIFT_PX, SHIFT_PX + 1, (2,))]
            logits = reader(torch.roll(_scaled(images_N3HW[rows]), shift, dims=(2, 3)))
            loss = sum((F.cross_entropy(logits[name], labels[name][rows]) for name in labels), torch.zeros(()))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * (1.0 - step / num_steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return reader.eval()


@torch.no_grad()
def read(reader: Reader, images_N3HW: Tensor) -> dict[str, Tensor]:
    """(N,) int64 of each attribute, for uint8 images."""
    parts = [reader(_scaled(some)) for some in images_N3HW.split(BATCH_IMAGES)]
    return {name: torch.cat([part[name].argmax(dim=1) for part in parts]) for name in parts[0]}


def score_attributes(
    draw: Callable[[Sequence[str]], np.ndarray],
    reader: Reader,
    captions: Sequence[str],
    labels: Labels,
    *,
    real_N3HW: Tensor,
) -> dict[str, AttributeScore]:
    """Draw each caption, uint8 (N, H, W, 3), and read the drawing; `labels` and the images `real` are the captions'.

    The reader must not have learned from `real`: on those its own errors are measured.
    """
    drawn_N3HW = torch.from_numpy(draw(captions)).permute(0, 3, 1, 2)
    seen, own = read(reader, drawn_N3HW), read(reader, real_N3HW)
    scores = {}
    for name, wanted_N in labels.items():
        share = _share(seen[name] == wanted_N)
        scores[name] = AttributeScore(
            share=share,
            chance=float(torch.bincount(wanted_N).max()) / len(wanted_N),
            standard_error=math.sqrt(share * (1.0 - share) / len(wanted_N)),
            reader_share=_share(own[name] == wanted_N),
        )
    return scores


def _scaled(images_N3HW: Tensor) -> Tensor:
    return images_N3HW.float() / 127.5 - 1.0


def _share(right_N: Any) -> float:
    return float(right_N.float().mean())
