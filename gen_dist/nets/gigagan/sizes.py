"""SIZES: the widths and depths of GigaGAN's networks by name, one column each.

Of `base-64`, Kang et al. 2023 give 652.5 M parameters of the generator and 381.4 M of the discriminator, the width of
z, four layers of M, and the kernels by resolution. The other numbers are chosen so that both counts, each with its T,
are met within 2 %, which a test checks: chosen last were a network behind each of self- and cross-attention in the
generator, and four layers of attention at 8 and 16 px in the discriminator. `upsampler` is theirs from 64 px to 256 and
512 px, of 359.1 M with its T and M, met within 1 %; chosen last were its channels, up to 768, and its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gen_dist.nets.gigagan.layers import Activation, leaky, rounded


@dataclass(frozen=True)
class Size:
    """Widths are of channels; depths by resolution are 0 where a resolution is not named."""

    style_width: int
    text_width: int
    text_layers: int
    """Of each T."""
    heads: int
    """Of every attention."""
    generator_base: int
    """Channels times pixels of a side: the channels at each resolution, up to `generator_most`."""
    generator_most: int
    kernels: Mapping[int, int]
    """Kernels to choose from, by resolution; 1 elsewhere."""
    blocks: Mapping[int, int]
    """Blocks of two convolutions, by resolution; 1 elsewhere."""
    attention: Mapping[int, int]
    """Layers of self- and cross-attention in the generator, by resolution."""
    discriminator_base: int
    discriminator_most: int
    discriminator_blocks: int
    """Residual blocks at each resolution of the discriminator."""
    discriminator_attention: Mapping[int, int]
    minibatch_std: bool
    """Whether the discriminator compares neighbours: no for images from captions (Kang et al., appendix A)."""
    latent_width: int = 128
    activate: Activation = leaky

    def generator_channels(self, side_px: int) -> int:
        """At a resolution."""
        return min(self.generator_most, self.generator_base // side_px)

    def discriminator_channels(self, side_px: int) -> int:
        """At a resolution."""
        return min(self.discriminator_most, self.discriminator_base // side_px)


# fmt: off
SIZES: dict[str, Size] = {
    "nano": Size(
        style_width=16, text_width=16, text_layers=1, heads=2,
        generator_base=64, generator_most=8, kernels={8: 3}, blocks={4: 2}, attention={8: 1},
        discriminator_base=64, discriminator_most=8, discriminator_blocks=1, discriminator_attention={8: 1},
        minibatch_std=True, latent_width=8, activate=rounded,
    ),
    "tiny": Size(
        style_width=64, text_width=64, text_layers=1, heads=4,
        generator_base=768, generator_most=64, kernels={16: 2, 32: 2, 64: 2}, blocks={}, attention={8: 1},
        discriminator_base=512, discriminator_most=64, discriminator_blocks=1, discriminator_attention={8: 1},
        minibatch_std=True, latent_width=64,
    ),
    "small": Size(
        style_width=256, text_width=256, text_layers=2, heads=4,
        generator_base=8192, generator_most=256, kernels={16: 2, 32: 4, 64: 4}, blocks={4: 2, 8: 2, 16: 2},
        attention={8: 1, 16: 1, 32: 1},
        discriminator_base=8192, discriminator_most=256, discriminator_blocks=1,
        discriminator_attention={8: 1, 16: 1, 32: 1},
        minibatch_std=False,
    ),
    "base-64": Size(
        style_width=1024, text_width=768, text_layers=4, heads=8,
        generator_base=32768, generator_most=1024, kernels={16: 2, 32: 4, 64: 8},
        blocks={4: 3, 8: 3, 16: 3, 32: 2, 64: 2}, attention={8: 2, 16: 2, 32: 1},
        discriminator_base=32768, discriminator_most=1024, discriminator_blocks=2,
        discriminator_attention={8: 4, 16: 4, 32: 1},
        minibatch_std=False,
    ),
    "imagenet": Size(
        style_width=512, text_width=512, text_layers=1, heads=8,
        generator_base=32768, generator_most=1024, kernels={16: 2, 32: 4, 64: 8, 128: 8, 256: 8},
        blocks={4: 2, 8: 2, 16: 2, 32: 2, 64: 2}, attention={8: 1, 16: 1, 32: 1},
        discriminator_base=32768, discriminator_most=1024, discriminator_blocks=1,
        discriminator_attention={8: 1, 16: 1, 32: 1},
        minibatch_std=True,
    ),
    "upsampler": Size(
        style_width=512, text_width=768, text_layers=4, heads=8,
        generator_base=32768, generator_most=768, kernels={16: 2, 32: 4, 64: 8, 128: 8, 256: 8, 512: 8},
        blocks={64: 2, 128: 2, 256: 2, 512: 2}, attention={8: 1, 16: 1, 32: 1},
        discriminator_base=32768, discriminator_most=1024, discriminator_blocks=1,
        discriminator_attention={8: 1, 16: 1, 32: 1},
        minibatch_std=True,
    ),
}
# fmt: on
