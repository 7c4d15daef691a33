"""Settings of GigaGAN: what a job may write under [model]. Read without torch, as all settings are."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from gen_dist.job.spec import Folder, Spec, WordRows

COMPARED_IMAGES = 4  # neighbours that lend each other wrong captions, and whose spread the discriminator may see
LARGEST_PX = {
    "nano": 64,
    "tiny": 512,
    "small": 8192,
    "base-64": 32_768,
    "imagenet": 32_768,
    "upsampler": 32_768,
}
"""Side by size at which the narrower player has one channel: channels halve where the side doubles."""


def _image_px(side: int) -> int:
    if side < 8 or side & (side - 1):
        below = max(8, 1 << (side.bit_length() - 1))
        raise ValueError(f"expected 4 px doubled once or more; write {below} or {2 * below}")
    return side


Kind = Literal["flip", "translate", "scale", "rotate", "brightness", "contrast", "saturation", "hue"]


def _share(value: float) -> float:
    if not 0.0 < value <= 1.0:
        raise ValueError("expected a share above 0 and up to 1; write 1 for none, or such as 0.7")
    return value


class Settings(Spec):
    """Settings of GigaGAN; the defaults suit 32 px images on CPUs."""

    zero_max: ClassVar[dict[str, int]] = {"generator": 3, "discriminator": 2}
    compared_images: ClassVar[int] = COMPARED_IMAGES

    size: Literal["nano", "tiny", "small", "base-64", "imagenet"] = "tiny"
    """Widths and depths of all networks. `nano` is for tests, `tiny` for CPUs, `base-64` the paper's, of 660 million
    parameters of the generator and 375 million of the discriminator."""
    image_px: Annotated[PositiveInt, AfterValidator(_image_px)] = 32
    """Height and width of the images, in pixels: 4 doubled once or more."""
    text_encoder: Folder = ""
    """Folder of a frozen pretrained CLIP or T5 text model (transformers). Empty: a table of words is trained in the
    run, one for each of the two players."""
    text: Literal["captions", "derived"] = "captions"
    """With `text_encoder`: what the networks are told. `captions` are encoded whenever their turn comes; `derived`
    reads what `gen-dist data derive` stored of them, from `data.derived`."""
    text_tokens: PositiveInt = 16
    """Words of a caption that are read, or tokens where the text encoder is pretrained (CLIP knows up to 77). A longer
    caption loses its end."""
    text_buckets: WordRows = 16_384
    """Rows of the trained, hashed table of words."""
    generator_learning_rate: PositiveFloat = 2.5e-3
    """Adam's rate for the generator, relative to weights of unit size."""
    discriminator_learning_rate: PositiveFloat = 2.5e-3
    """Adam's rate for the discriminator, relative to weights of unit size."""
    weight_decay: NonNegativeFloat = 1e-5
    """Of all weights but those of attention."""
    attention_weight_decay: NonNegativeFloat = 0.01
    """Of the weights of attention in both networks."""
    r1_gamma: NonNegativeFloat = 1.0
    """Weight of the R1 penalty, which keeps the discriminator smooth around real images at each scale. The paper's are
    0.2 to 2; larger images want more."""
    r1_every_steps: NonNegativeInt = 16
    """Steps between two penalties; each counts for all of them. 0: no penalty."""
    r1_form: Literal["exact", "differences"] = "exact"
    """`exact` differentiates twice, which ZeRO-3 cannot. `differences` compares with images moved by noise: the same
    in the mean, at any stage."""
    r1_sigma: PositiveFloat = 0.01
    """With `differences`: standard deviation of that noise, for pixels in [-1, 1]. Its strength follows from it and
    `r1_gamma`."""
    matching_weight: NonNegativeFloat = 1.0
    """Of the loss by which the discriminator tells a caption from another image's. 0: none."""
    early_exit_weight: PositiveFloat = 0.01
    """Share of a judgement before the last stage of the discriminator, against that of the last one."""
    early_exit_matching_weight: PositiveFloat = 0.05
    """The same in the matching loss."""
    clip: Folder = ""
    """Folder of a frozen CLIP pair of an image and a text model (transformers' CLIPModel), with its tokenizer, which
    tells the generator how well drawings fit their captions. Empty: none."""
    clip_weight: PositiveFloat = 0.5
    """Of that loss; the paper's are 0.2 to 1."""
    vision: Folder = ""
    """Folder of a frozen CLIP image model, on which heads learn as a second discriminator. Empty: none."""
    vision_weight: PositiveFloat = 1.0
    """Of what that discriminator tells the generator."""
    truncation: Annotated[float, AfterValidator(_share)] = 1.0
    """Of samples: how much of a style's distance from the mean style of its caption is kept, and then of that from the
    mean style of all captions. Less is more typical and less varied."""
    lost_saturation: Annotated[float, AfterValidator(_share)] = 0.95
    """Saturation above which the game counts as lost: see `train.divergence`. It is logged as
    `loss/discriminator/saturation`."""
    augment: Literal["none", "fixed", "adaptive"] = "none"
    """Whether the discriminator sees real and drawn images transformed at random, so that it does not learn a small set
    by heart: with a `fixed` probability, or as often as it needs (`adaptive`)."""
    augment_kinds: tuple[Kind, ...] = ("translate", "scale", "rotate", "brightness", "contrast", "saturation")
    """What may be done to them; also `flip` and `hue`, where no caption says left or right, or a colour."""
    augment_probability: Annotated[float, AfterValidator(_share)] = 0.2
    """With `fixed`: that of each kind, for each image."""
    augment_target: Annotated[float, AfterValidator(_share)] = 0.6
    """With `adaptive`: mean sign of the logits of real images above which the probability rises, from 0."""
    augment_images: PositiveInt = 500_000
    """With `adaptive`: images over which the probability can go from 0 to 1; fewer for smaller sets."""
    checkpoint_activations: bool = False
    """Keep no activations inside a resolution, and compute them again in the backward pass: less memory, a third more
    time."""

    @property
    def zero_max_here(self) -> dict[str, int]:
        """Only the exact penalty keeps the discriminator whole; heads on `vision` are a group of their own."""
        groups = {"generator": 3, "discriminator": 2 if self.r1_form == "exact" else 3}
        return groups | ({"vision": 3} if self.vision else {})

    @property
    def least_micro_batch_here(self) -> tuple[int, str]:
        """A wrong caption is another image's: one image alone has none."""
        return (2, "model.matching_weight = 0") if self.matching_weight else (1, "")

    @model_validator(mode="after")
    def _size_has_channels(self) -> Settings:
        largest = LARGEST_PX[self.size]
        if self.image_px > largest:
            raise ValueError(
                f"size={self.size!r} has no channels at image_px={self.image_px}; write image_px = {largest} or less,"
                " or a larger size"
            )
        return self

    @model_validator(mode="after")
    def _augments_by_something(self) -> Settings:
        if self.augment != "none" and not self.augment_kinds:
            raise ValueError(
                f"augment={self.augment!r} without augment_kinds; write augment = 'none', or a kind such as 'translate'"
            )
        return self

    @model_validator(mode="after")
    def _text_is_stored(self) -> Settings:
        if self.text == "derived" and not self.text_encoder:
            raise ValueError("text='derived' without a text_encoder; write text_encoder = the folder they are of")
        return self
