"""GigaGAN: a generator that draws images from captions in one pass, against a discriminator that judges at all scales.

Kang et al. 2023, "Scaling up GANs for text-to-image synthesis". Networks and losses are in gen_dist/nets/gigagan.

Shapes: B images, H x W pixels, r x r of a level, Z latent, L tokens, E width of a given vector, T text width, S style,
P judgements, K captions an image is judged by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gen_dist.nets.gigagan import losses
from gen_dist.nets.gigagan.discriminator import NEIGHBOURS, Discriminator
from gen_dist.nets.gigagan.mapping import MappingNetwork
from gen_dist.nets.gigagan.pyramid import LOWEST_PX, pyramid
from gen_dist.nets.gigagan.sizes import SIZES
from gen_dist.nets.gigagan.synthesis import Synthesis
from gen_dist.recipes.captions import TEXT, CaptionReader
from gen_dist.recipes.contract import Batch, Clock, Ctx, Field, Group, Losses, Phase, Recipe, mean
from gen_dist.recipes.gigagan_augment import Augment
from gen_dist.recipes.gigagan_groups import groups_of
from gen_dist.recipes.gigagan_health import apart, diagnosis, ranked, standing
from gen_dist.recipes.gigagan_judges import ClipJudge, VisionJudge
from gen_dist.recipes.gigagan_settings import Settings
from gen_dist.recipes.gigagan_styles import MeanStyle, finer, of_captions, truncated

STYLE = "style"  # what `_draw` leaves of it in the scratch


class GigaGAN(Recipe):
    """Phases: `discriminator`, every `r1_every_steps` `penalty`, and `generator`."""

    settings: Settings

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        assert settings.compared_images == NEIGHBOURS
        self._size = SIZES[settings.size]
        self._augment = Augment(settings)
        self._styles = MeanStyle(self._size.style_width)
        self._reader = CaptionReader(
            Path(settings.text_encoder) if settings.text_encoder else None,
            length=settings.text_tokens,
            num_buckets=settings.text_buckets,
        )
        self._clip = ClipJudge(Path(settings.clip)) if settings.clip else None
        width = self._size.text_width
        self._vision = VisionJudge(Path(settings.vision), text_width=width) if settings.vision else None

    @property
    def _lowest_px(self) -> int:
        """Side of the smallest image that is drawn and judged."""
        return LOWEST_PX

    @property
    def batch(self) -> Mapping[str, Field]:
        """Images and captions, and the captions' stored vectors."""
        side = self.settings.image_px
        fields = {"image": Field("image", (3, side, side)), "caption": Field("caption")}
        return fields | (self._reader.stored if self.settings.text == "derived" else {})

    def networks(self) -> dict[str, nn.Module]:
        """text, mapping, synthesis; discriminator_text, discriminator; and the heads on `vision`."""
        size, checkpoint = self._size, self.settings.checkpoint_activations
        common = {"image_px": self.settings.image_px}
        nets = {
            "text": self._text_network(),
            "mapping": MappingNetwork(size),
            "synthesis": Synthesis(size, **common, checkpoint_levels=checkpoint),
            "discriminator_text": self._text_network(),
            "discriminator": Discriminator(size, **common, checkpoint_stages=checkpoint),
        }
        return nets | ({"vision_heads": self._vision.heads()} if self._vision else {})

    def _text_network(self) -> nn.Module:
        return self._reader.network(self._size)

    def frozen(self) -> dict[str, nn.Module]:
        """The pretrained text encoder and the CLIP models, where there are such."""
        judges = {"clip": self._clip, "vision": self._vision}
        return self._reader.frozen() | {name: judge.model for name, judge in judges.items() if judge}

    def groups(self) -> dict[str, Group]:
        """generator, discriminator, and vision where there is such."""
        return groups_of(self.settings, is_penalised=self._penalised)

    @property
    def _penalised(self) -> bool:
        return self.settings.r1_gamma > 0 and self.settings.r1_every_steps > 0

    def phases(self, clock: Clock) -> Sequence[Phase]:
        """The penalty steps on its own: it needs the gradient of a gradient, and no other phase has to pay for that."""
        phases = [Phase("discriminator", "discriminator", self._discriminator_loss)]
        if self._penalised and clock.step % self.settings.r1_every_steps == 0:
            phases.append(self._penalty_phase)
        if self._vision:
            phases.append(Phase("vision", "vision", self._vision_loss))
        return (*phases, Phase("generator", "generator", self._generator_loss))

    @property
    def _penalty_phase(self) -> Phase:
        """In fp32: a gradient of a gradient in bf16 has few digits left, and a small difference of logits none."""
        return Phase("penalty", "discriminator", self._penalty, full_precision=True)

    def _draw(self, ctx: Ctx, batch: Batch, told: Tensor) -> list[Tensor]:
        """A pyramid of (B, 3, r, r) from what the text networks read; of the batch, nothing else is looked at."""
        ctx.scratch[STYLE], *words = self._styled(ctx, told)
        return ctx.nets["synthesis"](ctx.scratch[STYLE], *words)

    def _styled(self, ctx: Ctx, told: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Styles (B, S) of random latents, words (B, L, T) and their mask (B, L)."""
        words_BLT, mask_BL, caption_BT = ctx.nets["text"](told)
        return ctx.nets["mapping"](ctx.draw.normal(self._size.latent_width), caption_BT), words_BLT, mask_BL

    def _judged_by(self, ctx: Ctx, told: Tensor) -> Tensor:
        """(B, T): whole captions, as the discriminator reads them."""
        return ctx.nets["discriminator_text"](told)[2]

    def _judge(self, ctx: Ctx, images: Sequence[Tensor], caption_BKT: Tensor, *, parts: int = 1) -> Tensor:
        """(B, K, P); `parts`: batches that lie behind each other and are not compared with each other."""
        near = losses.neighbours(len(caption_BKT) // parts)
        return ctx.nets["discriminator"](images, caption_BKT, neighbours=near)

    def _weight(self, batch: Batch) -> Tensor:
        """(B,): 0 for what could not be read, and for what is compared with it."""
        return losses.with_neighbours(batch["weight"]) if self._size.minibatch_std else batch["weight"]

    def _weights(self, logit_BP: Tensor, early_exit: float) -> Tensor:
        return losses.judgement_weights(self.settings.image_px, self._lowest_px, early_exit=early_exit).to(logit_BP)

    def _pyramid(self, batch: Batch) -> list[Tensor]:
        """Of real images."""
        return pyramid(batch["image"], self._lowest_px)

    def _discriminator_loss(self, ctx: Ctx, batch: Batch) -> Losses:
        """V_MS-I/O and V_match (eq. 6 and 8): real and drawn images beside their captions, and beside wrong ones.

        V_match is a loss of the discriminator alone: a generator that followed it would draw the wrong caption.
        """
        s, told = self.settings, self._reader.told(ctx, batch)
        with torch.no_grad():
            fake = self._draw(ctx, batch, told)
        own_BT = self._judged_by(ctx, told)
        other_B, other_weight_B = losses.other_captions(batch["caption"], self._weight(batch))
        caption_BKT = torch.stack([own_BT, own_BT[other_B]] if s.matching_weight else [own_BT], dim=1)
        both = [torch.cat(levels) for levels in zip(self._pyramid(batch), fake, strict=True)]
        both = self._augment(ctx, both)
        logit_BKP, weight_B = self._judge(ctx, both, caption_BKT.repeat(2, 1, 1), parts=2), self._weight(batch)
        real_BP, fake_BP = logit_BKP[:, 0].chunk(2)
        weight_P = self._weights(real_BP, s.early_exit_weight)
        found = {
            "real": mean(losses.taken_for_fake(real_BP) @ weight_P, weight_B),
            "fake": mean(losses.taken_for_real(fake_BP) @ weight_P, weight_B),
        }
        if s.matching_weight:
            weight_P = s.matching_weight * self._weights(real_BP, s.early_exit_matching_weight)
            real, fake_ = (losses.taken_for_real(wrong_BP) @ weight_P for wrong_BP in logit_BKP[:, 1].chunk(2))
            found |= {"real_wrong": mean(real, other_weight_B), "fake_wrong": mean(fake_, other_weight_B)}
        found |= self._augment.watch(ctx, losses.at_last_stage(real_BP, s.image_px, self._lowest_px), weight_B)
        return found | self._health(real_BP.detach(), fake_BP.detach(), weight_B)

    def _health(self, real_BP: Tensor, fake_BP: Tensor, weight_B: Tensor) -> Losses:
        return standing(real_BP, fake_BP, weight_B, image_px=self.settings.image_px, lowest_px=self._lowest_px)

    def diagnosis(self, means: Mapping[str, float]) -> str:
        """The discriminator is so sure that nobody learns from it."""
        return diagnosis(means, phase="discriminator", most=self.settings.lost_saturation)

    def _penalty(self, ctx: Ctx, batch: Batch) -> Losses:
        """R1 on the real pyramid, with a slope for each of its images, times the steps that it stands for.

        The penalty of a level has the level's share in the adversarial loss.
        """
        s = self.settings
        caption_B1T = self._judged_by(ctx, self._reader.told(ctx, batch))[:, None]
        share_L = torch.tensor(losses.level_weights(s.image_px, self._lowest_px), device=ctx.device)

        def judged(images: Sequence[Tensor]) -> Tensor:
            logit_BP = self._judge(ctx, images, caption_B1T)[:, 0]
            return losses.by_level(logit_BP, s.image_px, self._lowest_px, early_exit=s.early_exit_weight)

        leaves = [image.detach().requires_grad_(s.r1_form == "exact") for image in self._pyramid(batch)]
        if s.r1_form == "exact":
            square_B = losses.slope_penalty(leaves, judged(leaves), share_L)
        else:
            moved = [leaf + s.r1_sigma * ctx.draw.normal(*leaf.shape[1:]) for leaf in leaves]
            square_B = losses.difference_penalty(judged(leaves), judged(moved), share_L, sigma=s.r1_sigma)
        square = mean(square_B, self._weight(batch))
        return {"r1": 0.5 * s.r1_gamma * s.r1_every_steps * square, "square_slope": square.detach()}

    def _generator_loss(self, ctx: Ctx, batch: Batch) -> Losses:
        """-log sigmoid(D) of each judgement: the form that does not saturate (Goodfellow et al. 2014, section 3)."""
        told = self._reader.told(ctx, batch)
        fake = self._draw(ctx, batch, told)
        if STYLE in ctx.scratch:
            self._styles.watch(ctx.scratch.pop(STYLE), batch["weight"], step=ctx.clock.step, mean=ctx.mean)
        with torch.no_grad():
            caption_B1T = self._judged_by(ctx, told)[:, None]
        logit_BP = self._judge(ctx, self._augment(ctx, fake), caption_B1T)[:, 0]
        weight_P = self._weights(logit_BP, self.settings.early_exit_weight)
        found = {"fool": mean(losses.taken_for_fake(logit_BP) @ weight_P, self._weight(batch))}
        if self._vision:
            vision_B = self._vision.fooled(ctx, fake[0], caption_B1T[:, 0])
            found["fool_vision"] = self.settings.vision_weight * mean(vision_B, batch["weight"])
        if self._clip:
            clip_B = self._clip.loss(ctx, fake[0], batch["caption"], batch["weight"])
            found["clip"] = self.settings.clip_weight * mean(clip_B, batch["weight"])
        return found | self._likeness(ctx, batch, fake)

    def _likeness(self, ctx: Ctx, batch: Batch, fake: Sequence[Tensor]) -> Losses:
        """What the generator pays for what the image of the batch has and its drawing has not: here, nothing."""
        return {}

    def _vision_loss(self, ctx: Ctx, batch: Batch) -> Losses:
        """The heads learn beside the discriminator, and read captions with its eyes."""
        assert self._vision is not None
        told = self._reader.told(ctx, batch)
        with torch.no_grad():
            fake, caption_BT = self._draw(ctx, batch, told)[0], self._judged_by(ctx, told)
        return self._vision.losses(ctx, batch["image"], fake, caption_BT, batch["weight"])

    def state_dict(self) -> dict[str, Tensor]:
        """The mean style of all captions, and how often images are transformed."""
        return self._styles.state_dict() | self._augment.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self._styles.load_state_dict(state)
        self._augment.load_state_dict(state)

    def made_with(self) -> Mapping[str, Mapping[str, str]]:
        """Of stored text: `text_encoder`."""
        return {TEXT: self._reader.made_with()} if self.settings.text == "derived" else {}

    def derives(self, ctx: Ctx) -> tuple[Mapping[str, Field], Mapping[str, Mapping[str, str]]]:
        """The vectors of captions. Raises: DeriveError without a pretrained text encoder."""
        return self._reader.derives()

    def derive(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        """text.npy (B, L, E) float16."""
        return {TEXT: self._reader.encoded(ctx, batch["caption"]).half()}

    def finer(self, prompts: Sequence[str], from_px: int) -> dict[str, Any]:
        """Another caption for the levels from `from_px` on."""
        return finer(prompts, from_px, image_px=self.settings.image_px)

    @torch.no_grad()
    def sample(self, ctx: Ctx, conditions: Batch, count: int) -> Tensor:
        """One pass of the generator, from truncated styles; levels may be told another caption (`finer`)."""
        latent_BZ = ctx.draw.normal(self._size.latent_width)
        captions = [conditions[name] for name in ("caption", "fine_caption") if name in conditions]
        own, *fine = (self._told_of(ctx, latent_BZ, some) for some in captions)
        drawn = ctx.nets["synthesis"](*own, *fine, fine_from_px=conditions.get("fine_from_px", 0))
        return drawn[0].clamp(-1.0, 1.0)

    def _told_of(self, ctx: Ctx, latent_BZ: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Style, words and mask of samples, truncated."""
        words_BLT, mask_BL, caption_BT = ctx.nets["text"](self._reader.encoded(ctx, captions))
        style_BS, share = ctx.nets["mapping"](latent_BZ, caption_BT), self.settings.truncation
        if share < 1.0:
            mean_BS = of_captions(ctx, caption_BT, latent_width=self._size.latent_width)
            style_BS = truncated(style_BS, mean_BS, self._styles.value(style_BS), share)
        return style_BS, words_BLT, mask_BL

    @torch.no_grad()
    def evaluate(self, ctx: Ctx, batch: Batch) -> dict[str, Tensor]:
        """Logits of held-out and of drawn images, the mean over levels; `diversity`: how far drawings are apart.

        `agreement`: the share of drawings whose caption the discriminator ranks above a neighbour's, a half where they
        are equal; beside that of held-out images, which is what it can read. `clip_cosine`: of drawings and captions.
        """
        told, span = self._reader.told(ctx, batch), (self.settings.image_px, self._lowest_px)
        fake, own_BT = self._draw(ctx, batch, told), self._judged_by(ctx, told)
        other_B, _ = losses.other_captions(batch["caption"], batch["weight"])
        both = [torch.cat(levels) for levels in zip(self._pyramid(batch), fake, strict=True)]
        caption_BKT = torch.stack([own_BT, own_BT[other_B]], dim=1).repeat(2, 1, 1)
        logit_BKP = self._judge(ctx, both, caption_BKT, parts=2)
        own_B, wrong_B = (losses.at_last_stage(logit_BP, *span).mean(dim=1) for logit_BP in logit_BKP.unbind(dim=1))
        (real_B, fake_B), agreement = own_B.chunk(2), ranked(own_B, wrong_B).chunk(2)
        scores = {"logit_real": real_B, "logit_fake": fake_B, "logit_gap": real_B - fake_B}
        scores |= {"agreement_real": agreement[0], "agreement": agreement[1]}
        if self._clip:
            scores["clip_cosine"] = self._clip.cosine(ctx, fake[0], batch["caption"])
        return scores | {"diversity": apart(fake[0], batch["weight"])}
