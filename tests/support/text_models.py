"""Small randomly initialised text models with their tokenizers, as transformers' `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

WORDS = ["<pad>", "<unk>", "</s>", "red", "blue", "heart", "circle"]


def write_text_model(folder: Path, kind: Literal["clip", "t5"]) -> Path:
    """A model of 16 numbers a token that knows WORDS."""
    torch.manual_seed(0)
    size = len(WORDS)
    if kind == "clip":
        config = CLIPTextConfig(
            vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
        CLIPTextModel(config).save_pretrained(folder)
    else:
        T5EncoderModel(
            T5Config(vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", model_max_length=8
    ).save_pretrained(folder)
    return folder
