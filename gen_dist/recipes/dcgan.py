"""DCGAN: a generator and a discriminator of plain convolutions, by class or not, with lazy R1 as a phase of its own.

Radford, Metz and Chintala 2016, "Unsupervised representation learning with deep convolutional generative adversarial
networks", with what made such networks train steadily since: no batch norm, the R1 penalty (Mescheder et al. 2018),
computed lazily (Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN"), and for classes a
projection discriminator (Miyato and Koyama 2018).

Shapes: B images, H x W pixels, C channels, Z latent width, K classes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import Spec
from gen_dist.recipes.contract import Batch, Clock, Ctx, Field, Group, Losses, Phase, PromptError, Recipe, mean

NORM_GROUPS = 8
SLOPE = 0.2  # of LeakyReLU below zero (Radford et al. 2016, section 4)
SPREAD_IMAGES = 4  # neighbours whose spread the discriminator sees: StyleGAN2's group size
LABEL_STD = 0.1  # of class vectors at the start, beside a latent of 1: from 1 on, each class stays a single image
ANY_CLASS = -1  # the label of an empty prompt: `sample` draws one


def _image_px(side: int) -> int:
    if side < 8 or side & (side - 1):
        below = max(8, 1 << (side.bit_length() - 1))
        raise ValueError(f"expected 4 px doubled once or more; write {below} or {2 * below}")
    return side


def _multiple(channels: int) -> int:
    if channels % 8:
        raise ValueError(f"expected a multiple of 8, the groups of the normalisation; write {channels // 8 * 8 + 8}")
    return channels


def _classes(names: tuple[str, ...]) -> tuple[str, ...]:
    seen: set[str] = set()
    for position, name in enumerate(names):
        if not name.strip():
            raise ValueError(f"class {position} of {len(names)} has no name; write one, in the order of the labels")
        if name.casefold() in seen:
            raise ValueError(f"class {name!r} is named twice; write each once, in the order of the labels")
        seen.add(name.casefold())
    return names


class Settings(Spec):
    """Settings of DCGAN; the defaults suit 64 px images on CPUs."""

    zero_max: ClassVar[dict[str, int]] = {"generator": 3, "discriminator": 2}
    compared_images: ClassVar[int] = SPREAD_IMAGES

    image_px: Annotated[PositiveInt, AfterValidator(_image_px)] = 64
    """Height and width of the images, in pixels: 4 doubled once or more."""
    classes: Annotated[tuple[str, ...], AfterValidator(_classes)] = ()
    """Names of the classes, in the order of the labels: drawn by name. Empty: no classes, and no label is read."""
    latent_width: PositiveInt = 128
    """Numbers of noise that an image is drawn from."""
    channels: Annotated[PositiveInt, AfterValidator(_multiple)] = 32
    """Width of both networks next to the pixels; doubles with each halving of the side. A multiple of 8."""
    max_channels: Annotated[PositiveInt, AfterValidator(_multiple)] = 512
    """Width at which the doubling stops. A multiple of 8."""
    generator_learning_rate: PositiveFloat = 1e-3
    """Adam's rate for the generator."""
    discriminator_learning_rate: PositiveFloat = 1e-3
    """Adam's rate for the discriminator."""
    r1_gamma: NonNegativeFloat = 1.0
    """Weight of the R1 penalty, which keeps the discriminator smooth around real images. Larger images want more."""
    r1_every_steps: NonNegativeInt = 16
    """Steps between two penalties; each counts for all of them. 0: no penalty."""


class LabelError(GenDistError):
    """A label in the data that no class of the settings has."""


class Generator(nn.Module):
    """Latent (B, Z) and label (B,) -> image (B, 3, H, W) in [-1, 1].

    Two deviations from Radford et al.: GroupNorm for batch norm, whose statistics would change with the micro-batch and
    the number of workers; and kernels of 4 x 4 for 5 x 5, which a stride of 2 divides, so that their traces overlap
    evenly (Odena et al. 2016, "Deconvolution and checkerboard artifacts").
    """

    def __init__(self, latent_width: int, channels: Sequence[int], *, num_classes: int) -> None:
        super().__init__()
        self.label = nn.Embedding(num_classes, latent_width) if num_classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=LABEL_STD)
        inputs = 2 * latent_width if num_classes else latent_width
        first, *others = channels
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, first, 4, bias=False), *_normed(first)]
        for width in others:
            layers += [nn.ConvTranspose2d(first, width, 4, stride=2, padding=1, bias=False), *_normed(width)]
            first = width
        layers += [nn.ConvTranspose2d(first, 3, 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.02)  # Radford et al. 2016, section 4

    def forward(self, latent_BZ: Tensor, label_B: Tensor | None = None) -> Tensor:
        """Without a label where there are no classes."""
        if self.label is not None:
            latent_BZ = torch.cat([latent_BZ, self.label(label_B)], dim=1)
        return self.layers(latent_BZ[:, :, None, None])  # (B, C, 1, 1) -> (B, C, 4, 4) -> ... -> (B, 3, H, W)


def _normed(channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(NORM_GROUPS, channels), nn.ReLU()]


def _spread(features_BC44: Tensor) -> Tensor:
    """(B,) mean standard deviation of the features over each SPREAD_IMAGES neighbours (Karras et al. 2018, section 3).

    It shows a collapse to one image, from which batch norm kept Radford et al.'s generator. Neighbours in the global
    batch are neighbours in micro-batches of 4, 8, 12 ... images: with those it is the same at every number of workers.
    """
    grouped = _neighbours(features_BC44)
    deviation = (grouped.var(dim=1, correction=0) + 1e-8).sqrt()
    return deviation.mean(dim=(1, 2, 3)).repeat_interleave(grouped.shape[1])


def _neighbours(value: Tensor) -> Tensor:
    """(B, ...) -> (B / group, group, ...), where a group is the largest divisor of SPREAD_IMAGES that divides B."""
    return value.unflatten(0, (-1, math.gcd(len(value), SPREAD_IMAGES)))


def _weight(batch: Batch) -> Tensor:
    """(B,) of 1, and 0 for an unreadable image and its neighbours: they are judged by their spread, and so by it."""
    grouped = _neighbours(batch["weight"])
    return grouped.amin(dim=1).repeat_interleave(grouped.shape[1])


class Discriminator(nn.Module):
    """Image (B, 3, H, W) and label (B,) -> logits (B,), positive for real ones.

    No normalisation: it would hide from R1 how steep the network is. Weights therefore start as in He et al. 2015,
    where Radford et al.'s 0.02 relies on batch norm to keep the signal alive.
    """

    def __init__(self, channels: Sequence[int], *, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in channels:
            layer = nn.Conv2d(before, width, 4, stride=2, padding=1)
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            layers += [layer, nn.LeakyReLU(SLOPE)]
            before = width
        self.layers = nn.Sequential(*layers)
        self.score = nn.Linear(16 * (before + 1), 1)
        self.label = nn.Embedding(num_classes, before) if num_classes else None
        for part in (self.score, self.label):
            if part is not None:
                nn.init.normal_(part.weight, std=0.02)

    def forward(self, image_B3HW: Tensor, label_B: Tensor | None = None) -> Tensor:
        """psi(phi(x)) + <e(y), phi(x)>, phi in the product a sum over positions (Miyato and Koyama 2018, section 3)."""
        features_BC44 = self.layers(image_B3HW)
        spread_B144 = _spread(features_BC44)[:, None, None, None].expand(-1, 1, 4, 4)
        logit_B = self.score(torch.cat([features_BC44, spread_B144], dim=1).flatten(1)).squeeze(1)
        if self.label is not None:
            logit_B = logit_B + (self.label(label_B) * features_BC44.sum(dim=(2, 3))).sum(dim=1)
        return logit_B


class DCGAN(Recipe):
    """Phases: `discriminator`, every `r1_every_steps` `penalty`, and `generator`."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        levels = (settings.image_px // 4).bit_length() - 1
        self._channels = [min(settings.channels << level, settings.max_channels) for level in range(levels)]

    @property
    def batch(self) -> Mapping[str, Field]:
        """Images, and their labels where there are classes."""
        side = self.settings.image_px
        image = {"image": Field("image", (3, side, side))}
        return image | {"label": Field("label")} if self.settings.classes else image

    def networks(self) -> dict[str, nn.Module]:
        """generator, discriminator."""
        num_classes = len(self.settings.classes)
        return {
            "generator": Generator(self.settings.latent_width, self._channels[::-1], num_classes=num_classes),
            "discriminator": Discriminator(self._channels, num_classes=num_classes),
        }

    def groups(self) -> dict[str, Group]:
        """Adam with 1e-3, 0 and 0.99 (Karras et al. 2018, appendix A) for Radford et al.'s 2e-4, 0.5 and 0.999.

        A first moment trails behind a moving opponent; and after 22,000 emoji of 32 px the pixels of drawn images had a
        standard deviation of 0.30 at 2e-4 and 0.49 at 1e-3, real ones 0.51. A penalty every k steps makes k + 1 steps
        of k, so the discriminator's rate is times c = k / (k + 1), its betas to the power of c (Karras et al. 2020,
        appendix B).
        """
        s = self.settings
        c = s.r1_every_steps / (s.r1_every_steps + 1) if self._penalised else 1.0
        return {
            "generator": Group(("generator",), s.generator_learning_rate, betas=(0.0, 0.99)),
            "discriminator": Group(
                ("discriminator",), s.discriminator_learning_rate * c, betas=(0.0, 0.99**c), average=False
            ),
        }

    @property
    def _penalised(self) -> bool:
        return self.settings.r1_gamma > 0 and self.settings.r1_every_steps > 0

    def phases(self, clock: Clock) -> Sequence[Phase]:
        """The penalty steps on its own: it needs the gradient of a gradient, and no other phase has to pay for that."""
        adversarial = Phase("discriminator", "discriminator", self._discriminator_loss)
        generator = Phase("generator", "generator", self._generator_loss)
        if self._penalised and clock.step % self.settings.r1_every_steps == 0:
            return (adversarial, Phase("penalty", "discriminator", self._penalty), generator)
        return (adversarial, generator)

    def _label(self, ctx: Ctx, batch: Batch) -> Tensor | None:
        """Labels (B,), or None where there are no classes. Raises: LabelError, where a lookup would crash a GPU."""
        if not self.settings.classes:
            return None
        label_B = batch["label"]
        low, high = torch.stack(label_B.aminmax()).tolist()
        if low < 0 or high >= len(self.settings.classes):
            raise LabelError(
                f"label {low if low < 0 else high} in the data near image {ctx.clock.images}, but model.classes names"
                f" {len(self.settings.classes)}, 0 to {len(self.settings.classes) - 1}; name every class there, or set"
                " data.label to the member that holds these classes"
            )
        return label_B

    def _fake(self, ctx: Ctx, label_B: Tensor | None) -> Tensor:
        return ctx.nets["generator"](ctx.draw.normal(self.settings.latent_width), label_B)

    def _discriminator_loss(self, ctx: Ctx, batch: Batch) -> Losses:
        """-log D(x) - log(1 - D(G(z))) on logits (Goodfellow et al. 2014, eq. 1).

        Drawn images weigh as the real ones of their slots: an unreadable slot has no label of the data to draw by, and
        real and drawn images stay as many.
        """
        label, weight_B = self._label(ctx, batch), _weight(batch)
        with torch.no_grad():
            fake = self._fake(ctx, label)
        discriminator = ctx.nets["discriminator"]
        return {
            "real": mean(F.softplus(-discriminator(batch["image"], label)), weight_B),
            "fake": mean(F.softplus(discriminator(fake, label)), weight_B),
        }

    def _penalty(self, ctx: Ctx, batch: Batch) -> Losses:
        """gamma / 2 E |grad D(x)|^2 over real images (Mescheder et al. 2018, eq. 9), times the steps it stands for."""
        image = batch["image"].detach().requires_grad_()
        logit_B = ctx.nets["discriminator"](image, self._label(ctx, batch))
        (slope_B3HW,) = torch.autograd.grad(logit_B.sum(), image, create_graph=True)
        strength = 0.5 * self.settings.r1_gamma * self.settings.r1_every_steps
        return {"r1": strength * mean(slope_B3HW.square().sum(dim=(1, 2, 3)), _weight(batch))}

    def _generator_loss(self, ctx: Ctx, batch: Batch) -> Losses:
        """-log D(G(z)) on logits: the form that does not saturate (Goodfellow et al. 2014, section 3)."""
        label = self._label(ctx, batch)
        logit_B = ctx.nets["discriminator"](self._fake(ctx, label), label)
        return {"fool": mean(F.softplus(-logit_B), _weight(batch))}

    def conditions(self, prompts: Sequence[str]) -> dict[str, Any]:
        """Classes by name, in any case; "" is any class. Without classes prompts say nothing. Raises: PromptError."""
        if not self.settings.classes:
            return {}
        labels = {name.casefold(): label for label, name in enumerate(self.settings.classes)}
        labels[""] = ANY_CLASS
        for prompt in prompts:
            if prompt.strip().casefold() not in labels:
                close = difflib.get_close_matches(prompt.strip().casefold(), labels, n=1)
                meant = f"did you mean {self.settings.classes[labels[close[0]]]!r}? " if close else ""
                raise PromptError(f"prompt {prompt!r}: no such class; {meant}known: {', '.join(self.settings.classes)}")
        return {"label": torch.tensor([labels[prompt.strip().casefold()] for prompt in prompts])}

    @torch.no_grad()
    def sample(self, ctx: Ctx, conditions: Batch, count: int) -> Tensor:
        """One pass of the generator."""
        latent = ctx.draw.normal(self.settings.latent_width)
        if not self.settings.classes:
            return ctx.nets["generator"](latent, None)
        asked_B = conditions["label"].to(ctx.device)
        any_B = ctx.draw.integers(len(self.settings.classes))
        return ctx.nets["generator"](latent, torch.where(asked_B == ANY_CLASS, any_B, asked_B))

    @torch.no_grad()
    def evaluate(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        """Logits of held-out and of drawn images; their mean gap is 0 where the discriminator cannot tell them apart.

        Readable neighbours of an unreadable image count here, though its grey is in their spread.
        """
        label = self._label(ctx, batch)
        real = ctx.nets["discriminator"](batch["image"], label)
        fake = ctx.nets["discriminator"](self._fake(ctx, label), label)
        return {"logit_real": real, "logit_fake": fake, "logit_gap": real - fake}
