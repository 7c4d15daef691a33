"""Latent diffusion: an autoencoder, then a text-conditioned denoiser that learns to draw in its latents.

Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models", with rectified flow (Liu et al.
2022; Esser et al. 2024) in place of DDPM's noise schedule, and classifier-free guidance (Ho and Salimans 2022).
Networks are diffusers' parts.

Shapes: B images, H x W pixels, P pixels of a patch side, c latent channels, h x w latents, L tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from gen_dist.job.spec import Folder, Spec, WordRows
from gen_dist.nets.autoencoder import StoredAutoencoder, weights_digest
from gen_dist.nets.moments import ChannelMoments
from gen_dist.nets.text import HashedWords, PretrainedTextEncoder, PretrainedTokens, SmallTextEncoder
from gen_dist.recipes.contract import Batch, Clock, Ctx, DeriveError, Field, Group, Losses, Phase, Recipe, mean

# the members that `gen-dist data derive` writes, float16: mean and log variance, and the vectors of the caption
LATENT, TEXT = "latent.npy", "text.npy"
TIME_SHIFT = 1.5  # of the sampling times towards the noise (Esser et al. 2024, eq. 23)


def _widths(step: int) -> AfterValidator:
    """Widths of resolutions: at least one, and multiples of what the normalisation groups."""

    def check(widths: tuple[int, ...]) -> tuple[int, ...]:
        wrong = [width for width in widths if width % step]
        if wrong or not widths:
            right = [max(step, round(width / step) * step) for width in widths] or [step]
            raise ValueError(f"expected one width or more, each a multiple of {step}; write {right}")
        return widths

    return AfterValidator(check)


def _norm_groups(most: int, widths: Sequence[int]) -> int:
    """Two channels or more to a group: one that is normalised alone forgets what was added to it, such as time."""
    return min(most, min(widths) // 2)


class Settings(Spec):
    """Settings of latent diffusion; the defaults suit 64 px images on CPUs."""

    zero_max: ClassVar[dict[str, int]] = {"autoencoder": 3, "denoiser": 3}

    image_px: PositiveInt = 64
    """Height and width of the images, in pixels."""
    autoencoder: Folder = ""
    """Run folder, checkpoint or export of latent_diffusion whose trained autoencoder is used as it is, with the same
    `patch_px`, `autoencoder_channels` and `latent_channels`. Empty: one is trained in the run."""
    latents: Literal["images", "derived"] = "images"
    """With `autoencoder`: what the denoiser learns from. `images` are encoded whenever their turn comes; `derived`
    reads what `gen-dist data derive` stored of them, from `data.derived`, and decodes no image."""
    autoencoder_images: PositiveInt = 20_000
    """Images after which the autoencoder is done and the denoiser begins. Rounded up to whole steps."""
    patch_px: PositiveInt = 4
    """Side of the pixel blocks that the autoencoder takes in as channels: most of its speed."""
    autoencoder_channels: Annotated[tuple[PositiveInt, ...], _widths(8)] = (48, 96)
    """Width of each resolution of the autoencoder; each but the last halves the side. Multiples of 8."""
    latent_channels: PositiveInt = 4
    """Channels of the latents that the denoiser draws in."""
    kl_weight: NonNegativeFloat = 1e-4
    """Pull of the latents towards a normal distribution, against the pixel error."""
    autoencoder_learning_rate: PositiveFloat = 1e-3
    """Adam's rate for the autoencoder."""
    denoiser_channels: Annotated[tuple[PositiveInt, ...], _widths(32)] = (96, 192)
    """Width of each resolution of the denoiser. Multiples of 32."""
    denoiser_layers: PositiveInt = 1
    """Residual blocks at each resolution of the denoiser."""
    denoiser_learning_rate: PositiveFloat = 5e-4
    """Adam's rate for the denoiser and the small text encoder."""
    text_encoder: Folder = ""
    """Folder of a frozen pretrained CLIP or T5 text model (transformers). Empty: a small one is trained in the run."""
    text: Literal["captions", "derived"] = "captions"
    """With `text_encoder`: what the denoiser is told. `captions` are encoded whenever their turn comes; `derived` reads
    what `gen-dist data derive` stored of them, from `data.derived`."""
    text_width: PositiveInt = 128
    """Width of a token's vector in the small text encoder. A multiple of 4."""
    text_layers: NonNegativeInt = 1
    """Transformer layers of the small text encoder."""
    text_tokens: PositiveInt = 16
    """Words of a caption that are read, or tokens where the text encoder is pretrained (CLIP knows up to 77). A longer
    caption loses its end."""
    text_buckets: WordRows = 16_384
    """Rows of the small text encoder's hashed word table."""
    caption_dropout: NonNegativeFloat = 0.1
    """Share of captions replaced by the empty one, which guidance needs."""
    guidance_scale: NonNegativeFloat = 3.0
    """How far samples are pushed towards the caption: 1 not at all, more is closer to the words and less varied."""
    sample_steps: PositiveInt = 24
    """Euler steps from noise to image."""

    @model_validator(mode="after")
    def _sides_divide(self) -> Settings:
        block_px = self.size_step_px
        if self.image_px % block_px:
            fitting = max(1, round(self.image_px / block_px)) * block_px
            raise ValueError(
                f"image_px={self.image_px} is not a multiple of {block_px} (patch_px, doubled for each further width of"
                f" autoencoder_channels and denoiser_channels); write image_px = {fitting}, or fewer widths"
            )
        if self.latents == "derived" and not self.autoencoder:
            raise ValueError("latents='derived' without an autoencoder; write autoencoder = the run they are of")
        if self.text == "derived" and not self.text_encoder:
            raise ValueError("text='derived' without a text_encoder; write text_encoder = the folder they are of")
        if self.text_width % 4:
            wider = self.text_width // 4 * 4 + 4
            raise ValueError(f"text_width={self.text_width} is not a multiple of 4, its attention heads; write {wider}")
        return self

    @property
    def size_step_px(self) -> int:
        """Each resolution halves the side: heights and widths that it can learn at are multiples of this."""
        return self.patch_px * 2 ** (len(self.autoencoder_channels) + len(self.denoiser_channels) - 2)

    @property
    def first_images(self) -> int:
        """Images before what draws begins to learn."""
        return 0 if self.autoencoder else self.autoencoder_images


class LatentDiffusion(Recipe):
    """Phases: `autoencoder` until `autoencoder_images`, `denoiser` after."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._side = settings.image_px // settings.patch_px // 2 ** (len(settings.autoencoder_channels) - 1)
        folder = Path(settings.text_encoder) if settings.text_encoder else None
        self._pretrained = None if folder is None else PretrainedTextEncoder(folder)
        self._tokens: HashedWords | PretrainedTokens = (
            HashedWords(num_buckets=settings.text_buckets, length=settings.text_tokens)
            if folder is None
            else PretrainedTokens(folder, length=settings.text_tokens)
        )
        self._stored = StoredAutoencoder.read(Path(settings.autoencoder)) if settings.autoencoder else None
        self._moments = ChannelMoments(settings.latent_channels)
        if self._stored is not None:
            self._stored.check(settings.model_dump())
            self.load_state_dict(self._stored.state)

    @property
    def batch(self) -> Mapping[str, Field]:
        """Images, or stored latents; captions, and their stored vectors."""
        s = self.settings
        fields = {"image": Field("image", (3, s.image_px, s.image_px)), "caption": Field("caption")}
        if s.latents == "derived":
            del fields["image"]
            shape = (2 * s.latent_channels, self._side, self._side)
            fields["latent"] = Field("array", shape, member=LATENT, dtype="float16")
        if s.text == "derived":
            assert isinstance(self._tokens, PretrainedTokens)
            assert self._pretrained is not None
            width = self._pretrained.width
            fields["text"] = Field("array", (self._tokens.length, width), member=TEXT, dtype="float16")
        return fields

    def networks(self) -> dict[str, nn.Module]:
        """encoder and decoder unless those are another run's, denoiser, and text unless that is pretrained."""
        s = self.settings
        nets = {} if self._stored is not None else self._autoencoder()
        nets["denoiser"] = self._denoiser()
        if self._pretrained is None:
            nets["text"] = SmallTextEncoder(
                num_buckets=s.text_buckets, length=s.text_tokens, width=s.text_width, depth=s.text_layers
            )
        return nets

    def _autoencoder(self) -> dict[str, nn.Module]:
        # late, as below: diffusers takes seconds to import, and who only reads the settings need not wait for it
        from diffusers.models.autoencoders.vae import Decoder, Encoder

        s = self.settings
        pixels = 3 * s.patch_px**2
        depth = len(s.autoencoder_channels)
        common = {
            "block_out_channels": s.autoencoder_channels,
            "layers_per_block": 1,
            "norm_num_groups": _norm_groups(8, s.autoencoder_channels),
            "mid_block_add_attention": False,
        }
        return {
            "encoder": Encoder(pixels, s.latent_channels, ("DownEncoderBlock2D",) * depth, **common),
            "decoder": Decoder(s.latent_channels, pixels, ("UpDecoderBlock2D",) * depth, **common),
        }

    def _denoiser(self) -> nn.Module:
        """Reads a caption twice: word by word in cross-attention, and whole beside the time, at every position.

        The second way is SDXL's (Podell et al. 2023, section 2.2). What holds for all of an image, such as its colour,
        is learned from a fraction of the images that attention alone needs.
        """
        from diffusers import UNet2DConditionModel

        s = self.settings
        levels = len(s.denoiser_channels)
        text_width = s.text_width if self._pretrained is None else self._pretrained.width
        return UNet2DConditionModel(
            sample_size=self._side,
            in_channels=s.latent_channels,
            out_channels=s.latent_channels,
            block_out_channels=s.denoiser_channels,
            layers_per_block=s.denoiser_layers,
            # attention costs most where there are most positions: only below the first level
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
            up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
            cross_attention_dim=text_width,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=text_width,
            attention_head_dim=4,
            norm_num_groups=_norm_groups(32, s.denoiser_channels),
        )

    def frozen(self) -> dict[str, nn.Module]:
        """The pretrained text encoder and the other run's autoencoder, where there are such."""
        nets: dict[str, nn.Module] = {} if self._pretrained is None else {"text": self._pretrained}
        if self._stored is not None:
            nets |= self._autoencoder()
            self._stored.fill(nets)
        return nets

    def groups(self) -> dict[str, Group]:
        """The denoiser learns the latents of the live autoencoder, so that one keeps no average."""
        s = self.settings
        text = ("text",) if self._pretrained is None else ()
        denoiser = Group(
            ("denoiser", *text), s.denoiser_learning_rate, betas=(0.9, 0.99), span_images=(s.first_images, None)
        )
        if self._stored is not None:
            return {"denoiser": denoiser}
        rate = s.autoencoder_learning_rate
        return {
            "autoencoder": Group(("encoder", "decoder"), rate, average=False, span_images=(0, s.first_images)),
            "denoiser": denoiser,
        }

    def phases(self, clock: Clock) -> Sequence[Phase]:
        """One phase at a time."""
        if self._stored is None and clock.images < self.settings.autoencoder_images:
            return (Phase("autoencoder", "autoencoder", self._autoencoder_loss),)
        return (Phase("denoiser", "denoiser", self._denoiser_loss),)

    def _encode(self, ctx: Ctx, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents, each (B, c, h, w)."""
        moments = _net(ctx, "encoder")(F.pixel_unshuffle(image_BCHW, self.settings.patch_px))
        middle, logvar = moments.chunk(2, dim=1)
        return middle, logvar.clamp(-30.0, 20.0)

    def _autoencoder_loss(self, ctx: Ctx, batch: Batch) -> Losses:
        """Pixel error + beta KL(q || N(0, 1)) per latent (Kingma and Welling 2014, appendix B).

        Squared plus half the absolute error: squared alone settles colours first (0.7 dB ahead of L1 after 6,400
        images), and the absolute part keeps edges from fading once the error is small.
        """
        image = batch["image"]
        middle, logvar = self._encode(ctx, image)
        latent = middle + torch.exp(0.5 * logvar) * ctx.draw.normal(*middle.shape[1:])
        drawn = F.pixel_shuffle(ctx.nets["decoder"](latent), self.settings.patch_px)
        kl = 0.5 * (middle.square() + logvar.exp() - 1.0 - logvar)
        self._moments.watch(latent, batch["weight"], step=ctx.clock.step, mean=ctx.mean)
        error = drawn - image
        return {
            "pixels": mean(error.square() + 0.5 * error.abs(), batch["weight"]),
            "kl": self.settings.kl_weight * mean(kl, batch["weight"]),
        }

    def _text(self, ctx: Ctx, captions: Sequence[str]) -> Tensor:
        """(B, L, D) vectors of the captions."""
        text = ctx.nets["text"] if self._pretrained is None else ctx.frozen["text"]
        return text(self._tokens(captions).to(ctx.device))

    def _denoiser_loss(self, ctx: Ctx, batch: Batch) -> Losses:
        return {"velocity": mean(self._velocity_error(ctx, batch), batch["weight"])}

    def _velocity_error(self, ctx: Ctx, batch: Batch) -> Tensor:
        """Squared, (B, c, h, w).

        Rectified flow: x_t = (1 - t) x + t eps, the network gives the velocity eps - x (Esser et al. 2024, eq. 13).
        t is the sigmoid of a normal number: most learning where it is hardest (their section 3.1, logit-normal).
        """
        with torch.no_grad():
            if self.settings.latents == "derived":
                middle, logvar = batch["latent"].float().chunk(2, dim=1)
            else:
                middle, logvar = self._encode(ctx, batch["image"])
            latent = middle + torch.exp(0.5 * logvar) * ctx.draw.normal(*middle.shape[1:])
        centre, scale = self._moments.scale(ctx.device)
        x = (latent - centre) / scale
        eps = ctx.draw.normal(*x.shape[1:])
        t_B = torch.sigmoid(ctx.draw.normal())
        t = t_B[:, None, None, None]
        velocity = self._velocity(ctx, (1.0 - t) * x + t * eps, t_B, self._told(ctx, batch))
        return (velocity - (eps - x)).square()

    def _told(self, ctx: Ctx, batch: Batch) -> Tensor:
        """(B, L, D) vectors of the captions, some of which are dropped."""
        dropped_B = ctx.draw.uniform() < self.settings.caption_dropout
        if "text" in batch:
            return torch.where(dropped_B[:, None, None], self._text(ctx, [""]), batch["text"].float())
        pairs = zip(dropped_B.tolist(), batch["caption"], strict=True)
        return self._text(ctx, ["" if dropped else caption for dropped, caption in pairs])

    def _velocity(self, ctx: Ctx, x_t: Tensor, t_B: Tensor, text_BLD: Tensor) -> Tensor:
        tokens_B1 = (text_BLD != 0).any(dim=2).sum(dim=1, keepdim=True)  # vectors of padding are zero
        mean_BD = text_BLD.sum(dim=1) / tokens_B1.clamp(min=1)
        return ctx.nets["denoiser"](x_t, t_B * 1000.0, text_BLD, class_labels=mean_BD, return_dict=False)[0]

    @torch.no_grad()
    def sample(self, ctx: Ctx, conditions: Batch, count: int) -> Tensor:
        """Euler steps from t = 1 to 0 with v = v_none + g (v_caption - v_none) (Ho and Salimans 2022, eq. 6)."""
        s = self.settings
        x = ctx.draw.normal(s.latent_channels, self._side, self._side)
        text = self._text(ctx, [*conditions["caption"], *([""] * count)])
        # time runs slower near the noise, where the layout is decided
        times = torch.linspace(1.0, 0.0, s.sample_steps + 1)
        times = TIME_SHIFT * times / (1.0 + (TIME_SHIFT - 1.0) * times)
        for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
            t_B = torch.full((2 * count,), now, device=ctx.device)
            wanted, free = self._velocity(ctx, torch.cat([x, x]), t_B, text).chunk(2)
            x = x + (then - now) * (free + s.guidance_scale * (wanted - free))
        centre, scale = self._moments.scale(ctx.device)
        return F.pixel_shuffle(_net(ctx, "decoder")(x * scale + centre), s.patch_px).clamp(-1.0, 1.0)

    @torch.no_grad()
    def evaluate(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        """Of each held-out image, the denoiser's error where the autoencoder is another run's, else its reconstruction.

        L1 and PSNR in decibels are for pixels in [-1, 1].
        """
        if self._stored is not None:
            return {"velocity": self._velocity_error(ctx, batch).flatten(1).mean(1)}
        latent, _ = self._encode(ctx, batch["image"])
        drawn = F.pixel_shuffle(ctx.nets["decoder"](latent), self.settings.patch_px).clamp(-1.0, 1.0)
        error = (drawn - batch["image"]).flatten(1)  # (B, 3HW)
        return {"pixels": error.abs().mean(1), "psnr_db": 10.0 * torch.log10(4.0 / error.square().mean(1))}

    def made_with(self) -> Mapping[str, Mapping[str, str]]:
        """Of stored latents: the encoder in `autoencoder`, at this image size. Of stored text: `text_encoder`."""
        facts = {}
        if self._stored is not None and self.settings.latents == "derived":
            facts[LATENT] = self._latents_made_with(self._stored.part("encoder"))
        if self.settings.text == "derived":
            facts[TEXT] = self._text_made_with()
        return facts

    def _latents_made_with(self, encoder: Mapping[str, Tensor]) -> dict[str, str]:
        size = {"image_px": str(self.settings.image_px), "crop": "centre"}
        return {"encoder": weights_digest(encoder), **size, "dtype": "float16", "holds": "mean, logvar"}

    def _text_made_with(self) -> dict[str, str]:
        assert self._pretrained is not None
        assert isinstance(self._tokens, PretrainedTokens)
        tokens = {"tokenizer": self._tokens.digest(), "tokens": str(self._tokens.length)}
        return {"encoder": weights_digest(self._pretrained.state_dict()), **tokens, "dtype": "float16"}

    def derives(self, ctx: Ctx) -> tuple[Mapping[str, Field], Mapping[str, Mapping[str, str]]]:
        """Latents, of images, and with a pretrained text encoder the vectors of captions.

        Raises: DeriveError while the autoencoder still learns.
        """
        s = self.settings
        if self._stored is None and ctx.clock.images < s.autoencoder_images:
            seen = f"its autoencoder saw {ctx.clock.images:,} of {s.autoencoder_images:,} images and still learns"
            raise DeriveError(f"{seen}; derive when its run has reached the denoiser")
        encoder: Any = _net(ctx, "encoder")
        fields = {"image": Field("image", (3, s.image_px, s.image_px))}
        facts = {LATENT: self._latents_made_with(encoder.state_dict())}
        if self._pretrained is not None:
            fields["caption"] = Field("caption")
            facts[TEXT] = self._text_made_with()
        return fields, facts

    def derive(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        """latent.npy (B, 2c, h, w) float16: mean and log variance. text.npy (B, L, D) float16."""
        arrays = {LATENT: torch.cat(self._encode(ctx, batch["image"]), dim=1).half()}
        if self._pretrained is not None:
            arrays[TEXT] = self._text(ctx, batch["caption"]).half()
        return arrays

    def state_dict(self) -> dict[str, Tensor]:
        """Moments of the latents, which the denoiser needs at unit scale."""
        return {f"latent_{name}": value for name, value in self._moments.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises: KeyError where the state is another recipe's."""
        self._moments.load_state_dict({name: state[f"latent_{name}"] for name in ("mean", "square")})


def _net(ctx: Ctx, name: str) -> Callable[..., Any]:
    """One of the autoencoder's networks, trained here or taken from another run."""
    return ctx.nets[name] if name in ctx.nets else ctx.frozen[name]
