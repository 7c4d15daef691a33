"""What GigaGAN promises beyond the contract: text from anywhere, penalties in both forms, CLIP judges, health."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from gen_dist.job.errors import JobError
from gen_dist.job.load import load_job
from gen_dist.job.settings import zero_max
from gen_dist.nets.gigagan import losses
from gen_dist.nets.gigagan.judges import NUM_FEATURES, VisionHeads
from gen_dist.nets.gigagan.pyramid import pyramid
from gen_dist.nets.pretrained import PretrainedError
from gen_dist.recipes.contract import Clock, Ctx, DeriveError
from gen_dist.recipes.gigagan import GigaGAN, Settings
from gen_dist.recipes.randomness import Draw
from tests.contract import distributed, plain
from tests.contract.cases import SMOKE, Case, small_case
from tests.contract.test_engines import FP32, error
from tests.support.ranks import Ranks
from tests.support.text_models import write_pair_model, write_text_model

NANO: dict[str, Any] = {"size": "nano", "image_px": 8, "text_tokens": 6, "text_buckets": 256}
CAPTIONS = ["red heart", "blue heart", "red circle", "blue circle"]


def made(**settings: Any) -> GigaGAN:
    torch.manual_seed(0)
    return GigaGAN(Settings(**{**NANO, **settings}))


def batch_of(captions: list[str], *, weight: list[float] | None = None) -> dict[str, Any]:
    torch.manual_seed(1)
    image = torch.rand(len(captions), 3, 8, 8) * 2 - 1
    return {"image": image, "caption": captions, "weight": torch.tensor(weight or [1.0] * len(captions))}


def context(recipe: GigaGAN, nets: Mapping[str, Any], *, count: int, first: int = 0) -> Ctx:
    draw = Draw(seed=0, first=first, count=count)
    return Ctx(nets=nets, frozen=recipe.frozen(), clock=Clock(0, 0), draw=draw, device=torch.device("cpu"))


def phase_losses(recipe: GigaGAN, name: str, batch: dict[str, Any], *, first: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(0)
    nets = recipe.networks()
    (phase,) = (phase for phase in recipe.phases(Clock(0, 0)) if phase.name == name)
    return phase.loss(context(recipe, nets, count=len(batch["caption"]), first=first), batch)


def test_a_caption_that_fits_another_image_is_told_apart_by_the_matching_loss_alone() -> None:
    found = phase_losses(made(), "discriminator", batch_of(CAPTIONS))
    without = phase_losses(made(matching_weight=0.0), "discriminator", batch_of(CAPTIONS))
    assert {"real_wrong", "fake_wrong"} <= found.keys()
    assert not {"real_wrong", "fake_wrong"} & without.keys()
    torch.testing.assert_close(found["real"], without["real"])
    same = phase_losses(made(), "discriminator", batch_of(["red heart"] * 4))
    assert same["real_wrong"] == 0.0
    assert same["fake_wrong"] == 0.0


@pytest.mark.parametrize("phase", ["discriminator", "penalty", "generator"])
def test_an_unreadable_image_counts_in_no_loss_nor_do_those_compared_with_it(phase: str) -> None:
    captions = [*CAPTIONS, "", *CAPTIONS[1:]]
    batch = batch_of(captions, weight=[1.0] * 4 + [0.0] + [1.0] * 3)
    part = {key: value[:4] for key, value in batch.items()}
    whole, half = phase_losses(made(), phase, batch), phase_losses(made(), phase, part)
    for name, value in whole.items():
        torch.testing.assert_close(2 * value, half[name], msg=name)


def test_a_split_batch_has_the_losses_of_the_joined_one() -> None:
    batch = batch_of(CAPTIONS * 2)
    for phase in ("discriminator", "penalty", "generator"):
        joined = phase_losses(made(), phase, batch)
        halves = [
            phase_losses(made(), phase, {key: value[start : start + 4] for key, value in batch.items()}, first=start)
            for start in (0, 4)
        ]
        for name, value in joined.items():
            torch.testing.assert_close(value, (halves[0][name] + halves[1][name]) / 2, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("count", [2, 3, 5, 6])
def test_the_matching_loss_and_the_spread_are_there_in_every_micro_batch(count: int) -> None:
    """A small one, or one that four does not divide, must not switch them off."""
    batch = batch_of([*CAPTIONS, "red star", "blue star"][:count])
    found = phase_losses(made(), "discriminator", batch)
    assert min(float(found[name]) for name in ("real_wrong", "fake_wrong")) > 0.1
    torch.manual_seed(0)
    recipe = made()
    nets = recipe.networks()
    ctx = context(recipe, nets, count=count)
    agreement = torch.stack([recipe.evaluate(ctx, batch)[name] for name in ("agreement", "agreement_real")])
    assert (agreement != 0.5).all(), "no image was compared"
    logits = [
        recipe._judge(ctx, pyramid(image), torch.zeros(count, 1, 16))
        for image in (batch["image"], batch["image"][:1].expand(count, -1, -1, -1))
    ]
    assert (logits[0][0] - logits[1][0]).abs().max() > 1e-4, "an image among others is judged as one among its copies"


def test_what_is_logged_of_the_game_has_no_gradient() -> None:
    found = phase_losses(made(), "discriminator", batch_of(CAPTIONS))
    learned = {name for name, value in found.items() if value.requires_grad}
    assert learned == {"real", "fake", "real_wrong", "fake_wrong"}
    sides = (8, 4)
    logged = {f"{what}_{side}px" for what in ("logit_real", "logit_fake", "loss") for side in sides}
    assert found.keys() - learned == logged | {"logit_gap", "saturation"}
    mean_gap = sum(float(found[f"logit_real_{side}px"] - found[f"logit_fake_{side}px"]) for side in sides) / 2
    assert float(found["logit_gap"]) == pytest.approx(mean_gap, abs=1e-6)
    assert 0.0 <= float(found["saturation"]) <= 1.0


def test_the_penalty_is_half_gamma_times_the_squared_slopes_of_the_real_pyramid() -> None:
    recipe, batch = made(r1_gamma=3.0, r1_every_steps=5), batch_of(CAPTIONS)
    found = phase_losses(recipe, "penalty", batch)
    torch.manual_seed(0)
    nets = recipe.networks()
    tokens = recipe._reader.told(context(recipe, nets, count=4), batch)
    caption = nets["discriminator_text"](tokens)[2][:, None]
    total = torch.zeros(())
    for level, share in enumerate(losses.level_weights(8)):
        leaves = pyramid(batch["image"])
        leaves[level] = leaves[level].clone().requires_grad_()
        logits = losses.by_level(nets["discriminator"](leaves, caption)[:, 0], 8, early_exit=0.01)
        (slope,) = torch.autograd.grad(logits[:, level].sum(), leaves[level])
        total = total + share * slope.square().sum() / 4
    torch.testing.assert_close(found["square_slope"], total)
    torch.testing.assert_close(found["r1"].detach(), 0.5 * 3.0 * 5 * total)


def test_the_penalty_by_differences_is_the_exact_one_in_the_mean() -> None:
    batch = batch_of(CAPTIONS * 128)
    exact = phase_losses(made(), "penalty", batch)["square_slope"]
    found = phase_losses(made(r1_form="differences"), "penalty", batch)["square_slope"]
    assert float(found) == pytest.approx(float(exact), rel=0.25)  # 512 draws of a square each


def test_only_the_penalty_by_differences_lets_the_discriminator_be_split() -> None:
    assert zero_max(Settings()) == Settings.zero_max == {"generator": 3, "discriminator": 2}
    assert zero_max(Settings(r1_form="differences")) == {"generator": 3, "discriminator": 3}
    assert zero_max(Settings(vision="clip")) == {"generator": 3, "discriminator": 2, "vision": 3}
    refused = ["train.zero_stages.discriminator=3"]
    with pytest.raises(JobError, match="a phase of it differentiates twice"):
        load_job(SMOKE / "gigagan.toml", refused)
    assert load_job(SMOKE / "gigagan.toml", [*refused, "model.r1_form=differences"]).train.zero_stages


def _case(**model: Any) -> partial[Case]:
    def build(**train: Any) -> Case:
        case = small_case("gigagan", **train)
        return Case(case.job.model_copy(update={"model": {**case.job.model, **model}}), eps=case.eps)

    return partial(build)


@pytest.mark.long
@pytest.mark.parametrize("stage", [2, 3])
def test_the_penalty_by_differences_trains_as_plain_torch_at_any_stage(pair: Ranks, stage: int) -> None:
    # differences of 1e-2 between images are differences of 1e-3 between logits, of which fp32 keeps four digits
    case = _case(r1_form="differences", r1_sigma=0.1)
    stages = {"generator": 3, "discriminator": stage}
    found = pair.run(distributed.train, case(zero_stages=stages))[0]["weights"]
    wanted = plain.train(case())
    worst, where = error(found, wanted.weights)
    assert worst <= 10 * FP32, f"{where} is off by {worst:.1e}"


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_a_frozen_text_encoder_is_read_and_its_stored_vectors_are_the_same(tmp_path: Path, kind: Any) -> None:
    folder = str(write_text_model(tmp_path / kind, kind))
    recipe, stored = made(text_encoder=folder), made(text_encoder=folder, text="derived")
    assert set(recipe.frozen()) == {"encoder"}
    torch.manual_seed(0)
    nets, batch = recipe.networks(), batch_of(CAPTIONS)
    ctx = context(recipe, nets, count=4)
    _, made_with = recipe.derives(ctx)
    assert made_with == stored.made_with()
    (member, vectors), *_ = recipe.derive(ctx, batch).items()
    field = stored.batch["text"]
    assert (field.member, field.shape) == (member, tuple(vectors.shape[1:]))
    assert vectors.dtype == torch.float16
    told = [
        phase_losses(one, "generator", {**batch, **extra})["fool"]
        for one, extra in (
            (recipe, {}),
            (stored, {"text": vectors}),
        )
    ]
    torch.testing.assert_close(told[0], told[1], rtol=1e-3, atol=1e-3)
    other = {**batch, "caption": CAPTIONS[::-1]}
    assert abs(phase_losses(recipe, "generator", other)["fool"] - told[0]) > 1e-6


def test_without_a_frozen_encoder_nothing_can_be_stored() -> None:
    recipe = made()
    with pytest.raises(DeriveError, match="name a model with a frozen text_encoder"):
        recipe.derives(context(recipe, {}, count=1))
    with pytest.raises(ValidationError, match="text='derived' without a text_encoder"):
        Settings(text="derived")


def test_the_clip_judges_have_a_phase_and_a_group_and_teach_the_generator(tmp_path: Path) -> None:
    folder = str(write_pair_model(tmp_path / "clip"))
    recipe, batch = made(clip=folder, vision=folder), batch_of(CAPTIONS)
    assert set(recipe.frozen()) == {"clip", "vision"}
    assert recipe.groups()["vision"].nets == ("vision_heads",)
    assert zero_max(recipe.settings).keys() == recipe.groups().keys()
    assert [phase.name for phase in recipe.phases(Clock(0, 0))] == ["discriminator", "penalty", "vision", "generator"]
    torch.manual_seed(0)
    nets = recipe.networks()
    for group, phase in (("vision", recipe.phases(Clock(0, 0))[2]), ("generator", recipe.phases(Clock(0, 0))[3])):
        for name, net in nets.items():
            net.requires_grad_(name in recipe.groups()[group].nets)
        found = phase.loss(context(recipe, nets, count=4), batch)
        assert all(value.isfinite() for value in found.values())
        for name, value in found.items():
            for net in nets.values():
                net.zero_grad()
            value.backward(retain_graph=True)
            still = [
                key
                for net in recipe.groups()[group].nets
                for key, parameter in nets[net].named_parameters()
                if parameter.grad is None
            ]
            assert not still, f"{name} reaches none of {still[:3]}"


def test_the_heads_on_a_vision_model_read_bf16_beside_their_buffers_in_fp32() -> None:
    """As DeepSpeed leaves them: it casts parameters and no buffers."""
    torch.manual_seed(0)
    heads = VisionHeads(16, 16)
    features, caption = [torch.randn(2, 16, 2, 2) for _ in range(NUM_FEATURES)], torch.randn(2, 16)
    wanted = heads(features, caption)
    for parameter in heads.parameters():
        parameter.data = parameter.data.bfloat16()
    found = heads([feature.bfloat16() for feature in features], caption.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.1)


def test_drawings_of_captions_that_clip_mixes_up_cost_more(tmp_path: Path) -> None:
    folder = str(write_pair_model(tmp_path / "clip"))
    recipe = made(clip=folder, clip_weight=1.0)
    found = phase_losses(recipe, "generator", batch_of(CAPTIONS))["clip"]
    image, text = recipe.frozen()["clip"](batch_of(CAPTIONS)["image"], recipe._clip._tokens(CAPTIONS))
    assert image.shape == text.shape == (4, 8)
    assert 0.0 < float(found) < 10 * math.log(4)


def test_agreement_is_the_share_of_drawings_that_are_ranked_by_their_caption(tmp_path: Path) -> None:
    recipe = made(clip=str(write_pair_model(tmp_path / "clip")))
    torch.manual_seed(0)
    nets, batch = recipe.networks(), batch_of([*CAPTIONS, "red heart", "red heart", "red heart", "red heart"])

    def reads(images: list[Tensor], caption_BKT: Tensor, **_: Any) -> Tensor:
        """Logits (B, K, 3): the mean of what is read of a caption, and for drawings minus that."""
        way = torch.tensor([1.0, -1.0]).repeat_interleave(len(caption_BKT) // 2)[:, None, None]
        return way * caption_BKT.mean(dim=2, keepdim=True).expand(-1, -1, 3)

    scores = recipe.evaluate(context(recipe, {**nets, "discriminator": reads}, count=8), batch)
    own = nets["discriminator_text"](recipe._reader.told(context(recipe, nets, count=8), batch))[2].mean(dim=1)
    wanted = (own[:4] > own[[1, 2, 3, 0]]).float()
    torch.testing.assert_close(scores["agreement_real"], torch.cat([wanted, torch.full((4,), 0.5)]))
    torch.testing.assert_close(scores["agreement"], torch.cat([1 - wanted, torch.full((4,), 0.5)]))
    assert scores["clip_cosine"].shape == (8,)
    assert scores["clip_cosine"].abs().max() <= 1.0 + 1e-6
    assert "clip_cosine" not in made().evaluate(context(made(), nets, count=8), batch)


@pytest.mark.parametrize("setting", ["text_encoder", "clip", "vision"])
def test_a_folder_without_a_model_is_one_clear_error(tmp_path: Path, setting: str) -> None:
    with pytest.raises(PretrainedError, match=f"model.{setting}=.*: no config.json there; name a folder"):
        made(**{setting: str(tmp_path)})


def test_a_text_model_cannot_judge_images(tmp_path: Path) -> None:
    folder = str(write_text_model(tmp_path, "t5"))
    with pytest.raises(PretrainedError, match=r"model.vision=.* a model of the type t5; name a folder that holds"):
        made(vision=folder)


def test_truncated_samples_are_nearer_to_each_other_and_need_no_neighbours() -> None:
    torch.manual_seed(0)
    nets = made().networks()

    def drawn(truncation: float, *, first: int, count: int) -> Tensor:
        recipe = made(truncation=truncation)
        return recipe.sample(context(recipe, nets, count=count, first=first), {"caption": ["red heart"] * count}, count)

    def apart(image: Tensor) -> float:
        return float((image - image.mean(dim=0)).abs().mean())

    whole, half = drawn(1.0, first=0, count=8), drawn(0.5, first=0, count=8)
    assert apart(half) < 0.8 * apart(whole)
    torch.testing.assert_close(drawn(0.5, first=3, count=2), half[3:5], rtol=0, atol=1e-5)
    with pytest.raises(ValidationError, match="write 1 for none"):
        Settings(truncation=0.0)


def test_diversity_is_nothing_where_all_drawings_are_one() -> None:
    recipe, batch = made(), batch_of(["red heart"] * 4)
    torch.manual_seed(0)
    nets = recipe.networks()
    apart = recipe.evaluate(context(recipe, nets, count=4), batch)["diversity"]
    fixed: dict[str, Any] = {**nets, "mapping": lambda latent, caption: torch.zeros(len(latent), 16)}
    alike = recipe.evaluate(context(recipe, fixed, count=4), batch)["diversity"]
    assert apart.shape == (4,)
    assert apart.min() > 0.01
    np.testing.assert_allclose(alike, 0.0, atol=1e-6)


@pytest.mark.parametrize(("side", "message"), [(33, "write 32 or 64"), (4, "write 8 or 16")])
def test_a_side_that_cannot_be_halved_down_to_4_says_what_to_write(side: int, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(image_px=side)
