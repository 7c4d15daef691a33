"""Text network T: vectors of words, frozen or looked up, to what one network of GigaGAN reads of a caption.

Generator and discriminator have one each (Kang et al. 2023, section 3.1 and figure 4). The generator reads the words in
its cross-attention, and the whole caption, which is the token of its end, in the mapping network; the discriminator the
whole alone.

Shapes: B captions, L tokens, E width of a given vector, T width here, K heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gen_dist.nets.gigagan.attention import FeedForward
from gen_dist.nets.gigagan.layers import EqualLinear
from gen_dist.nets.text import NULL, PAD, SmallTextEncoder

GAIN = 0.5  # of what a layer adds: T's tokens stay near unit size


class TextNetwork(nn.Module):
    """Vectors (B, L, E), zero where there is no token -> words (B, L, T), mask (B, L), whole caption (B, T)."""

    def __init__(self, given_width: int, width: int, *, depth: int, num_heads: int) -> None:
        super().__init__()
        self.inward = EqualLinear(given_width, width)
        self.layers = nn.ModuleList(TextLayer(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, given_BLE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first token always counts: a caption that could not be read has none, and a softmax needs one."""
        mask_BL = (given_BLE != 0).any(dim=2)
        mask_BL = mask_BL | (torch.arange(mask_BL.shape[1], device=mask_BL.device) == 0)
        x_BLT = self.inward(given_BLE)
        for layer in self.layers:
            x_BLT = layer(x_BLT, mask_BL)
        words_BLT = self.norm(x_BLT) * mask_BL[:, :, None]
        end_B = mask_BL.sum(dim=1) - 1
        return words_BLT, mask_BL, words_BLT[torch.arange(len(end_B), device=end_B.device), end_B]


class TextLayer(nn.Module):
    """Self-attention by dot products and a network on each token, with a norm before each."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inward = EqualLinear(width, 3 * width, start=None)
        self.out = EqualLinear(width, width)
        self.mlp = FeedForward(width)
        self._num_heads = num_heads

    def forward(self, x_BLT: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, L, T) -> (B, L, T)."""
        parts = self.inward(self.norm_attention(x_BLT)).unflatten(2, (3, self._num_heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, K, L, T / K)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_BL[:, None, None, :])
        x_BLT = x_BLT + GAIN * self.out(mixed.transpose(1, 2).flatten(2))
        return x_BLT + self.mlp(self.norm_mlp(x_BLT))


class SmallTextNetwork(nn.Module):
    """Tokens (B, L) -> what T gives of them, by a table of words of its own: where no text encoder is frozen."""

    def __init__(self, width: int, *, num_buckets: int, length: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.embedding = SmallTextEncoder(num_buckets=num_buckets, length=length, width=width, depth=0)
        self.network = TextNetwork(width, width, depth=depth, num_heads=num_heads)

    def forward(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As TextNetwork."""
        return self.network(self.embedding(tokens_BL))


def with_end(tokens_BL: Tensor) -> Tensor:
    """(B, L) of words -> (B, L + 1) with an end behind the last one: HashedWords knows none."""
    tokens = F.pad(tokens_BL, (0, 1), value=PAD)
    return tokens.scatter(1, (tokens != PAD).sum(dim=1, keepdim=True), NULL)
