"""Small randomly initialised text models, and a pair of image and text, with their tokenizers, as transformers'
`save_pretrained` writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = ["<pad>", "<unk>", "</s>", "red", "blue", "heart", "circle"]


def write_text_model(folder: Path, kind: Literal["clip", "t5"], *, width: int = 16) -> Path:
    """A model of `width` numbers a token that knows WORDS."""
    torch.manual_seed(0)
    size = len(WORDS)
    if kind == "clip":
        config = CLIPTextConfig(
            vocab_size=size, hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        )
        CLIPTextModel(config).save_pretrained(folder)
    else:
        T5EncoderModel(
            T5Config(vocab_size=size, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_pair_model(folder: Path, *, words: Sequence[str] = WORDS) -> Path:
    """A CLIP model of 8 px images, and of captions of `words`, which start as WORDS do."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={"vocab_size": len(words), "eos_token_id": words.index("</s>"), **sizes},
        vision_config={"image_size": 8, "patch_size": 4, **sizes},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    write_tokenizer(folder, words=words)
    return folder


def write_clip(folder: Path, *, weights: bool) -> dict[str, Path]:
    """CLIP in the sizes that jobs/gigagan/base-64.toml names, with a tokenizer of WORDS: its folders by their names."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    text, pair = CLIPTextConfig(**sizes), CLIPConfig()
    folders = {name: folder / name for name in ("clip-vit-l-14-text", "clip-vit-b-32")}
    for place, config, model in zip(folders.values(), (text, pair), (CLIPTextModel, CLIPModel), strict=True):
        (model(config) if weights else config).save_pretrained(place)
        write_tokenizer(place, length=text.max_position_embeddings)
    return folders


def write_tokenizer(folder: Path, *, length: int = 8, words: Sequence[str] = WORDS) -> None:
    known = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=known, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=length
    ).save_pretrained(folder)
