"""DDPM: a denoiser in pixel space, without conditions.

Ho, Jain and Abbeel 2020, "Denoising diffusion probabilistic models", with the cosine schedule of Nichol and Dhariwal
2021 and the deterministic sampler of Song et al. 2021 (DDIM). The network and the noise schedule are diffusers' parts.

Shapes: B images, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from diffusers import DDIMScheduler, UNet2DModel
from pydantic import AfterValidator, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from gen_dist.job.spec import Spec
from gen_dist.recipes.contract import Batch, Clock, Ctx, Field, Group, Losses, Phase, Recipe, mean

NORM_GROUPS = 8


def _widths(widths: tuple[int, ...]) -> tuple[int, ...]:
    if len(widths) < 2 or any(width % NORM_GROUPS for width in widths):
        right = [max(1, round(width / NORM_GROUPS)) * NORM_GROUPS for width in widths] or [32]
        right += [2 * right[0]] if len(right) < 2 else []
        raise ValueError(f"expected two widths or more, each a multiple of {NORM_GROUPS}; write {right}")
    return widths


class Settings(Spec):
    """Settings of DDPM; the defaults suit small images on CPUs."""

    zero_max: ClassVar[dict[str, int]] = {"denoiser": 3}

    image_px: PositiveInt = 32
    """Height and width of the images, in pixels. A multiple of 2 for each resolution but the first."""
    channels: Annotated[tuple[PositiveInt, ...], AfterValidator(_widths)] = (32, 64, 128)
    """Width of each resolution of the denoiser: two or more, multiples of 8."""
    layers: PositiveInt = 1
    """Residual blocks at each resolution."""
    learning_rate: PositiveFloat = 4e-4
    """Adam's rate."""
    timesteps: PositiveInt = 1000
    """Steps of the noise schedule in training."""
    sample_steps: PositiveInt = 50
    """Steps from noise to image, at most `timesteps`."""

    @property
    def size_step_px(self) -> int:
        """Height and width that it can learn at besides `image_px` are multiples of this."""
        return 2 ** (len(self.channels) - 1)

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        """Every resolution halves the side, so the side must halve that often; and no more steps than there are."""
        block_px = 2 ** (len(self.channels) - 1)
        if self.image_px % block_px:
            fitting = max(1, round(self.image_px / block_px)) * block_px
            raise ValueError(
                f"image_px={self.image_px} is not a multiple of {block_px} (2 for each width of channels but the"
                f" first); write image_px = {fitting}, or fewer widths"
            )
        if self.sample_steps > self.timesteps:
            raise ValueError(
                f"sample_steps={self.sample_steps} is more than timesteps={self.timesteps}; write sample_steps ="
                f" {self.timesteps}, or more timesteps"
            )
        return self


class DDPM(Recipe):
    """One group, one phase."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._schedule = DDIMScheduler(
            num_train_timesteps=settings.timesteps, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing"
        )

    @property
    def batch(self) -> Mapping[str, Field]:
        """Images alone."""
        return {"image": Field("image", (3, self.settings.image_px, self.settings.image_px))}

    def networks(self) -> dict[str, nn.Module]:
        """denoiser."""
        levels = len(self.settings.channels)
        denoiser = UNet2DModel(
            sample_size=self.settings.image_px,
            block_out_channels=self.settings.channels,
            layers_per_block=self.settings.layers,
            # two channels or more to a group: a channel that is normalised alone forgets what time was added to it
            norm_num_groups=min(NORM_GROUPS, min(self.settings.channels) // 2),
            # attention costs most where there are most positions: only at the last resolution
            down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        )
        return {"denoiser": denoiser}

    def groups(self) -> dict[str, Group]:
        """denoiser."""
        return {"denoiser": Group(("denoiser",), self.settings.learning_rate)}

    def phases(self, clock: Clock) -> Sequence[Phase]:
        """Always the same one."""
        return (Phase("denoiser", "denoiser", self._loss),)

    def _loss(self, ctx: Ctx, batch: Batch) -> Losses:
        return {"noise": mean(self._error(ctx, batch["image"]), batch["weight"])}

    def _error(self, ctx: Ctx, x_0: Tensor) -> Tensor:
        """|eps - eps_theta(sqrt(abar) x_0 + sqrt(1 - abar) eps, t)|^2 (Ho et al. 2020, eq. 14), (B, 3, H, W)."""
        eps = ctx.draw.normal(*x_0.shape[1:])
        t_B = ctx.draw.integers(self.settings.timesteps)
        x_t = self._schedule.add_noise(x_0, eps, t_B)
        return (self._predict(ctx, x_t, t_B) - eps).square()

    def _predict(self, ctx: Ctx, x_t: Tensor, t_B: Tensor) -> Tensor:
        return ctx.nets["denoiser"](x_t, t_B, return_dict=False)[0]

    def conditions(self, prompts: Sequence[str]) -> dict[str, Any]:
        """None: prompts are not read."""
        return {}

    @torch.no_grad()
    def sample(self, ctx: Ctx, conditions: Batch, count: int) -> Tensor:
        """DDIM with eta = 0 (Song et al. 2021, eq. 12): the image is a function of its first noise."""
        x = ctx.draw.normal(3, self.settings.image_px, self.settings.image_px)
        self._schedule.set_timesteps(self.settings.sample_steps)
        for t in self._schedule.timesteps:
            eps = self._predict(ctx, x, t.expand(count).to(ctx.device))
            x = self._schedule.step(eps, t, x, return_dict=False)[0]
        return x.clamp(-1.0, 1.0)

    @torch.no_grad()
    def evaluate(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        """The training loss on held-out images."""
        return {"noise": self._error(ctx, batch["image"]).mean(dim=(1, 2, 3))}
