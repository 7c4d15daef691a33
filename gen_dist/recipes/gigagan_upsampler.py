"""The upsampler of GigaGAN: enlarges small images, such as a base model draws, as their captions say.

Kang et al. 2023, section 3.4. It learns from images alone: the small one is the mean of the pixels of each. The game is
GigaGAN's without its vision-aided discriminator, and no image below the small one's size is judged.

Shapes: B images, l x l pixels of small images, r x r of a level, S style, L words, T text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from gen_dist.job.spec import Folder
from gen_dist.nets.gigagan import losses
from gen_dist.nets.gigagan.discriminator import Discriminator
from gen_dist.nets.gigagan.lpips import Lpips
from gen_dist.nets.gigagan.mapping import MappingNetwork
from gen_dist.nets.gigagan.pyramid import pyramid
from gen_dist.nets.gigagan.upsampler import Upsampler
from gen_dist.recipes.contract import Batch, Ctx, Losses, Recipe, mean
from gen_dist.recipes.gigagan import STYLE, GigaGAN
from gen_dist.recipes.gigagan_settings import Settings as GigaGANSettings

LEAST_SQUARE = 1e-10  # of a difference, or two images that are the same would be infinitely near


def _low_px(side: int) -> int:
    if side < 8 or side & (side - 1):
        below = max(8, 1 << (side.bit_length() - 1))
        raise ValueError(f"expected 8 px or a doubling of it; write {below} or {2 * below}")
    return side


class Settings(GigaGANSettings):
    """Settings of the upsampler: those of GigaGAN, and its own; the defaults suit 8 px to 32 px on CPUs."""

    vision: ClassVar[str] = ""  # type: ignore[misc]  # no setting here: it has no vision-aided discriminator
    vision_weight: ClassVar[float] = 0.0  # type: ignore[misc]

    size: Literal["nano", "tiny", "small", "upsampler"] = "tiny"  # type: ignore[assignment]
    """Widths and depths of all networks. `nano` is for tests, `tiny` for CPUs, `upsampler` the paper's from 64 px to
    256 or 512 px, of 360 million parameters of the generator and 232 million of the discriminator."""
    low_px: Annotated[PositiveInt, AfterValidator(_low_px)] = 8
    """Height and width of the images that it enlarges to `image_px`: what its base model draws."""
    noise_sigma: NonNegativeFloat = 0.1
    """Most noise that is added to small images in training, each its own amount from 0 on: standard deviation, for
    pixels in [-1, 1]. It then forgives a base model that draws no real image."""
    sample_sigma: NonNegativeFloat = 0.02
    """Noise that is added to small images when it draws and when it is measured."""
    lpips: Folder = ""
    """Folder of a frozen VGG-16 with the weights of LPIPS: `vgg16.safetensors`, torchvision's, and
    `lpips.safetensors`, the `lin` layers of the package lpips. Empty: pixels are compared instead."""
    lpips_weight: PositiveFloat = 10.0
    """With `lpips`: of how different a drawing looks from its image. The paper's is 10 for 64 px to 512 px."""
    pixel_weight: NonNegativeFloat = 100.0
    """Without `lpips`: of the mean squared difference of pixels between drawing and image, at all resolutions."""

    @property
    def enlarges_px(self) -> int:
        """Side of what samples are made from."""
        return self.low_px

    @model_validator(mode="after")
    def _sides_and_noise_fit(self) -> Settings:
        if self.image_px <= self.low_px:
            raise ValueError(
                f"image_px={self.image_px} is no larger than low_px={self.low_px}; write image_px = {4 * self.low_px}"
            )
        if self.sample_sigma > self.noise_sigma:
            raise ValueError(
                f"sample_sigma={self.sample_sigma} is more noise than it learns from; write"
                f" {self.noise_sigma} or less, or a noise_sigma of {self.sample_sigma} or more"
            )
        return self


class GigaGANUpsampler(GigaGAN):
    """The phases and groups of GigaGAN."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._lpips = Lpips(Path(settings.lpips)) if settings.lpips else None

    @property
    def _lowest_px(self) -> int:
        return self.settings.low_px

    def networks(self) -> dict[str, nn.Module]:
        """text, mapping, synthesis; discriminator_text, discriminator."""
        s, size = self.settings, self._size
        synthesis = Upsampler(size, image_px=s.image_px, low_px=s.low_px, checkpoint_levels=s.checkpoint_activations)
        discriminator = Discriminator(
            size, image_px=s.image_px, lowest_px=s.low_px, checkpoint_stages=s.checkpoint_activations
        )
        return {
            "text": self._text_network(),
            "mapping": MappingNetwork(size),
            "synthesis": synthesis,
            "discriminator_text": self._text_network(),
            "discriminator": discriminator,
        }

    def frozen(self) -> dict[str, nn.Module]:
        """The pretrained text encoder, CLIP and LPIPS, where there are such."""
        return super().frozen() | ({"lpips": self._lpips} if self._lpips else {})

    def _draw(self, ctx: Ctx, batch: Batch, told: Tensor) -> list[Tensor]:
        """A pyramid of (B, 3, r, r) from the small images of the batch, each with noise of its own amount."""
        sigma_B = self.settings.noise_sigma * ctx.draw.uniform()
        ctx.scratch[STYLE], *words = self._styled(ctx, told)
        return self._enlarged(ctx, self._small(batch), sigma_B, ctx.scratch[STYLE], *words)

    def _enlarged(
        self, ctx: Ctx, low_B3ll: Tensor, sigma_B: Tensor, style_BS: Tensor, words_BLT: Tensor, mask_BL: Tensor
    ) -> list[Tensor]:
        noisy_B3ll = low_B3ll + sigma_B[:, None, None, None] * ctx.draw.normal(*low_B3ll.shape[1:])
        return ctx.nets["synthesis"](noisy_B3ll, sigma_B, style_BS, words_BLT, mask_BL)

    def _small(self, batch: Batch) -> Tensor:
        return pyramid(batch["image"], self.settings.low_px)[-1]

    def _likeness(self, ctx: Ctx, batch: Batch, fake: Sequence[Tensor]) -> Losses:
        """LPIPS, or the mean squared difference at each level, with the level's share in the adversarial loss.

        An absolute one pulls as hard at what is right but for noise as at an edge: tiny learned nothing from it.
        """
        s = self.settings
        if self._lpips:
            return {"lpips": s.lpips_weight * mean(ctx.frozen["lpips"](fake[0], batch["image"]), batch["weight"])}
        shares = losses.level_weights(s.image_px, s.low_px)
        apart = [
            share * mean((drawn - image).square(), batch["weight"])
            for share, drawn, image in zip(shares, fake, self._pyramid(batch), strict=True)
        ]
        return {"pixels": s.pixel_weight * torch.stack(apart).sum()} if s.pixel_weight else {}

    def finer(self, prompts: Sequence[str], from_px: int) -> dict[str, Any]:
        """None of these: its levels are all fine. Raises: PromptError."""
        return Recipe.finer(self, prompts, from_px)

    @torch.no_grad()
    def sample(self, ctx: Ctx, conditions: Batch, count: int) -> Tensor:
        """Enlarges `conditions["image"]` (count, 3, l, l), with the noise of `sample_sigma`."""
        sigma_B = torch.full((count,), self.settings.sample_sigma, device=ctx.device)
        told = self._told_of(ctx, ctx.draw.normal(self._size.latent_width), conditions["caption"])
        return self._enlarged(ctx, conditions["image"], sigma_B, *told)[0].clamp(-1.0, 1.0)

    @torch.no_grad()
    def evaluate(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        """How near held-out images come back from their small ones, beside bicubic interpolation without noise.

        `psnr_db` and `psnr_bicubic_db`, of pixels in [-1, 1]; `consistency`: the mean absolute difference between the
        small image and the drawing made small again, for the same pixels.
        """
        low, image = self._small(batch), batch["image"]
        sigma_B = torch.full((len(low),), self.settings.sample_sigma, device=ctx.device)
        told = self._styled(ctx, self._reader.told(ctx, batch))
        drawn = self._enlarged(ctx, low, sigma_B, *told)[0].clamp(-1.0, 1.0)
        bicubic = F.interpolate(low, size=image.shape[2:], mode="bicubic", align_corners=False).clamp(-1.0, 1.0)
        back = pyramid(drawn, self.settings.low_px)[-1]
        return {
            "psnr_db": _psnr_db(drawn, image),
            "psnr_bicubic_db": _psnr_db(bicubic, image),
            "consistency": (back - low).abs().mean(dim=(1, 2, 3)),
        }


def _psnr_db(one: Tensor, other: Tensor) -> Tensor:
    """(B,) of images in [-1, 1], whose peak is 2."""
    square_B = (one - other).square().mean(dim=(1, 2, 3)).clamp(min=LEAST_SQUARE)
    return 10.0 * torch.log10(4.0 / square_B)
