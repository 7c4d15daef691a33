"""Captions as the tensors that text networks take: tokens for a trained table of words, or a frozen encoder's vectors.

Shapes: B captions, L tokens, E width of a frozen encoder's vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from gen_dist.nets.autoencoder import weights_digest
from gen_dist.nets.gigagan.sizes import Size
from gen_dist.nets.gigagan.text import SmallTextNetwork, TextNetwork, with_end
from gen_dist.nets.text import HashedWords, PretrainedTextEncoder, PretrainedTokens
from gen_dist.recipes.contract import Batch, Ctx, DeriveError, Field

TEXT = "text.npy"  # the member that `gen-dist data derive` writes: (L, E) float16


class CaptionReader:
    """(B, L + 1) tokens that end, or (B, L, E) vectors that are zero where there is no token."""

    def __init__(self, folder: Path | None, *, length: int, num_buckets: int) -> None:
        """`folder`: of a frozen encoder; None: there is none. Raises: PretrainedError.

        Of CLIP the last layer but one is read (Kang et al. 2023, section 3.2): the last serves the whole caption.
        """
        self.pretrained = None if folder is None else PretrainedTextEncoder(folder, clip_layers_left_out=1)
        self._words = HashedWords(num_buckets=num_buckets, length=length)
        self._tokens = None if folder is None else PretrainedTokens(folder, length=length)

    def frozen(self) -> dict[str, nn.Module]:
        """The frozen encoder by its name."""
        return {} if self.pretrained is None else {"encoder": self.pretrained}

    @property
    def stored(self) -> dict[str, Field]:
        """What to read where vectors were computed before."""
        assert self._tokens is not None
        assert self.pretrained is not None
        return {"text": Field("array", (self._tokens.length, self.pretrained.width), member=TEXT, dtype="float16")}

    def made_with(self) -> dict[str, str]:
        """What stored vectors are of."""
        assert self._tokens is not None
        assert self.pretrained is not None
        tokens = {"tokenizer": self._tokens.digest(), "tokens": str(self._tokens.length)}
        return {"encoder": weights_digest(self.pretrained.state_dict()), **tokens, "dtype": "float16"}

    def network(self, size: Size) -> nn.Module:
        """A fresh text network that reads them."""
        depth = {"depth": size.text_layers, "num_heads": size.heads}
        if self.pretrained is not None:
            return TextNetwork(self.pretrained.width, size.text_width, **depth)
        words = {"num_buckets": self._words.num_buckets, "length": self._words.length + 1}
        return SmallTextNetwork(size.text_width, **words, **depth)

    def derives(self) -> tuple[Mapping[str, Field], Mapping[str, Mapping[str, str]]]:
        """As `Recipe.derives`. Raises: DeriveError without a pretrained encoder."""
        if self.pretrained is None:
            raise DeriveError("its words are learned in the run; name a model with a frozen text_encoder")
        return {"caption": Field("caption")}, {TEXT: self.made_with()}

    def told(self, ctx: Ctx, batch: Batch) -> Tensor:
        """Of a batch of data: stored vectors where it has them."""
        return batch["text"].float() if "text" in batch else self.encoded(ctx, batch["caption"])

    def encoded(self, ctx: Ctx, captions: Sequence[str]) -> Tensor:
        """Of captions."""
        if self._tokens is None:
            return with_end(self._words(captions)).to(ctx.device)
        with torch.no_grad():
            return ctx.frozen["encoder"](self._tokens(captions).to(ctx.device))
