"""Captions to vectors: a small text encoder trained with the images, or a frozen pretrained one from a folder.

Shapes: B captions, L tokens, D width of a token's vector.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gen_dist.nets.pretrained import load_model, load_tokenizer, model_type

PAD = 0
NULL = 1  # a caption of no words: what classifier-free guidance trains as "any image"


NAMED_INSTEAD = (
    "a folder that transformers' save_pretrained wrote, with its tokenizer, or '' for the small encoder trained in the"
    " run"
)


@lru_cache(maxsize=1 << 16)
def _word_tokens(caption: str, num_buckets: int) -> tuple[int, ...]:
    words = re.findall(r"\w+", caption.lower())
    return tuple(2 + zlib.crc32(word.encode()) % (num_buckets - 2) for word in words)


class HashedWords:
    """Tokens without a vocabulary file: each word is hashed into one of `num_buckets` rows of an embedding table.

    Two of the rows, PAD and NULL, are no word's.

    Two words of a data set share a row with probability about words / buckets each; captions of a few words stay
    distinct.
    """

    def __init__(self, *, num_buckets: int, length: int) -> None:
        self.num_buckets = num_buckets
        self.length = length

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """(B, L) int64; a caption longer than L loses its end, an empty one is NULL."""
        tokens_BL = torch.full((len(captions), self.length), PAD, dtype=torch.int64)
        for row, caption in enumerate(captions):
            words = _word_tokens(caption, self.num_buckets)[: self.length] or (NULL,)
            tokens_BL[row, : len(words)] = torch.tensor(words)
        return tokens_BL


class SmallTextEncoder(nn.Module):
    """Tokens (B, L) -> vectors (B, L, D): an embedding and `depth` transformer layers, trained with the images."""

    def __init__(self, *, num_buckets: int, length: int, width: int, depth: int, num_heads: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_buckets, width)
        self.position = nn.Parameter(torch.randn(length, width) * 0.02)
        nn.init.normal_(self.embedding.weight, std=0.5)  # words must differ from the first step on
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, num_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        """Padding is masked from attention, and its own vectors are zero: they carry nothing into cross-attention."""
        padding_BL = tokens_BL == PAD
        vectors_BLD = self.embedding(tokens_BL) + self.position[: tokens_BL.shape[1]]
        bias_BL = torch.zeros(padding_BL.shape, dtype=vectors_BLD.dtype, device=tokens_BL.device)
        bias_BL = bias_BL.masked_fill(padding_BL, float("-inf"))
        for layer in self.layers:
            vectors_BLD = layer(vectors_BLD, src_key_padding_mask=bias_BL)
        return self.norm(vectors_BLD) * (~padding_BL).unsqueeze(-1)


class PretrainedTokens:
    """The tokenizer that lies beside a pretrained text encoder.

    Always `length` tokens: cross-attention sees the padding too, so an image would depend on what else is drawn.
    """

    def __init__(self, folder: Path, *, length: int, setting: str = "text_encoder") -> None:
        """`setting`: of the recipe, which names the folder. Raises: PretrainedError."""
        self._tokenizer = load_tokenizer(folder, setting=setting)
        self.length = min(length, int(self._tokenizer.model_max_length))

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """(2, B, L) int64, tokens and attention mask; a caption longer than L loses its end."""
        encoded: Any = self._tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        return torch.stack([encoded["input_ids"], encoded["attention_mask"]])

    def digest(self) -> str:
        """SHA-256 of its vocabulary."""
        return hashlib.sha256(json.dumps(sorted(self._tokenizer.get_vocab().items())).encode()).hexdigest()


class PretrainedTextEncoder(nn.Module):
    """A frozen CLIP or T5 text model from a `save_pretrained` folder: (2, B, L) tokens and mask -> (B, L, D)."""

    def __init__(self, folder: Path, *, clip_layers_left_out: int = 0) -> None:
        """`clip_layers_left_out`: at the end of a CLIP model; its last norm follows the layer before them.

        Raises: PretrainedError.
        """
        super().__init__()
        from transformers import AutoModel, CLIPTextModel, T5EncoderModel

        kind = model_type(folder, setting="text_encoder", what=NAMED_INSTEAD)
        classes = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel, "t5": T5EncoderModel}
        self.encoder = load_model(classes.get(kind, AutoModel), folder, setting="text_encoder")
        if clip_layers_left_out and isinstance(self.encoder, CLIPTextModel):
            layers = self.encoder.encoder.layers
            self.encoder.encoder.layers = layers[: len(layers) - clip_layers_left_out]
        self.width = int(getattr(self.encoder.config, "hidden_size", 0) or self.encoder.config.d_model)

    def forward(self, tokens_2BL: Tensor) -> Tensor:
        """Hidden states of the last layer; zero where the mask is 0."""
        tokens_BL, mask_BL = tokens_2BL
        hidden_BLD = self.encoder(input_ids=tokens_BL, attention_mask=mask_BL).last_hidden_state
        return hidden_BLD * mask_BL.unsqueeze(-1)
