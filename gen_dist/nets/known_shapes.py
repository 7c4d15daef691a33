"""Shapes of pretrained models that jobs here name, by the name of their folder: a plan is made where none lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CLIP_TOKENS = 77


@dataclass(frozen=True)
class Known:
    """A model whose sizes are published."""

    what: str
    config: Callable[[], Any]
    """transformers' configuration of it."""
    tokens: int
    """The most that its text model takes."""


def _clip_l_14_text() -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)


def _clip_b_32() -> Any:
    from transformers import CLIPConfig

    return CLIPConfig()  # transformers' own defaults are those sizes


KNOWN = {
    "clip-vit-l-14-text": Known("the text model of CLIP ViT-L/14", _clip_l_14_text, CLIP_TOKENS),
    "clip-vit-b-32": Known("CLIP ViT-B/32", _clip_b_32, CLIP_TOKENS),
}


def known(folder: Path) -> Known | None:
    """What a folder that is not there would hold by its name; None where it is there, or nobody knows the name."""
    return None if folder.exists() else KNOWN.get(folder.name)


class CountedTokens:
    """In place of a tokenizer: tells how many tokens there are, and not which."""

    def __init__(self, length: int) -> None:
        self.model_max_length = length

    def __call__(self, captions: Sequence[str], *, max_length: int, **_: Any) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (B, max_length) int64: ones for the words, a beginning and an end."""
        counts = [min(len(caption.split()) + 2, max_length) for caption in captions]
        rows = [[1] * count + [0] * (max_length - count) for count in counts]
        return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(rows)}
