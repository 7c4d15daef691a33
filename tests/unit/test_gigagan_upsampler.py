"""GigaGAN's upsampler: its network, LPIPS, what the discriminator judges, and the chain behind a base model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gen_dist.cli.app import main
from gen_dist.nets.gigagan import losses
from gen_dist.nets.gigagan.discriminator import Discriminator, judgements
from gen_dist.nets.gigagan.layers import leaky
from gen_dist.nets.gigagan.lpips import STAGES, Lpips
from gen_dist.nets.gigagan.mapping import MappingNetwork
from gen_dist.nets.gigagan.pyramid import pyramid, sides
from gen_dist.nets.gigagan.sizes import SIZES
from gen_dist.nets.gigagan.text import TextNetwork
from gen_dist.nets.gigagan.upsampler import Upsampler, enlarged
from gen_dist.nets.pretrained import PretrainedError, shapes_alone
from gen_dist.recipes.catalog import build
from gen_dist.recipes.contract import Clock, Ctx, PromptError, Recipe
from gen_dist.recipes.gigagan import GigaGAN
from gen_dist.recipes.gigagan import Settings as BaseSettings
from gen_dist.recipes.gigagan_upsampler import Settings
from gen_dist.recipes.randomness import Draw
from gen_dist.registry.export import export
from gen_dist.sample.chain import Chain, ChainError
from gen_dist.sample.model import Model
from gen_dist.sample.trained import Trained
from tests.support.models import write_model

NANO = replace(SIZES["nano"], activate=leaky)
PAPER_PARAMETERS = 359.1e6
CAPTIONS = ["red heart", "blue heart", "red circle", "blue circle"]
CPU = torch.device("cpu")
NANO_SETTINGS = {"size": "nano", "text_tokens": 6, "text_buckets": 256}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def made(name: str = "gigagan_upsampler", **settings: Any) -> Recipe:
    return build(name, {**NANO_SETTINGS, "image_px": 16, **settings})


def inputs(low_px: int) -> tuple[Tensor, ...]:
    mask = torch.ones(2, 5, dtype=torch.bool)
    low, sigma = torch.rand(2, 3, low_px, low_px) * 2 - 1, torch.full((2,), 0.1)
    return low, sigma, torch.randn(2, NANO.style_width), torch.randn(2, 5, NANO.text_width), mask


def context(recipe: Recipe, *, count: int = 4, seed: int = 0) -> Ctx:
    torch.manual_seed(0)
    draw = Draw(seed=seed, first=0, count=count)
    return Ctx(nets=recipe.networks(), frozen=recipe.frozen(), clock=Clock(0, 0), draw=draw, device=CPU)


def batch_of(image_px: int = 16) -> dict[str, Any]:
    coarse = torch.rand(4, 3, image_px // 4, image_px // 4) * 2 - 1
    return {"image": F.interpolate(coarse, scale_factor=4), "caption": CAPTIONS, "weight": torch.ones(4)}


def model_of(recipe: Recipe) -> Model:
    torch.manual_seed(0)
    return Model(recipe, {name: net.eval() for name, net in recipe.networks().items()}, {}, CPU)


@pytest.mark.parametrize(("low_px", "image_px"), [(8, 16), (8, 32), (16, 32), (32, 64)])
def test_it_starts_as_the_bicubic_enlargement_at_every_resolution_from_the_small_ones_up(
    low_px: int, image_px: int
) -> None:
    net, (low, *rest) = Upsampler(NANO, image_px=image_px, low_px=low_px), inputs(low_px)
    found = net(low, *rest)
    assert [tuple(image.shape) for image in found] == [(2, 3, side, side) for side in sides(image_px, low_px)]
    wanted = low
    for image in reversed(found):
        torch.testing.assert_close(image, wanted)
        wanted = enlarged(wanted)


def trained(net: Upsampler) -> Upsampler:
    for colours in net.colours:
        torch.nn.init.normal_(colours.conv.kernels)
    return net


def test_every_input_and_every_weight_matters_once_its_colours_are_not_zero() -> None:
    net, given = trained(Upsampler(NANO, image_px=32, low_px=16)), inputs(16)
    leaves = [value.requires_grad_() for value in given[:4]]
    sum(image.square().sum() for image in net(*given)).backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.abs().max() > 0
    still = [key for key, value in net.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert not still


def test_activations_computed_again_give_the_same_gradients() -> None:
    def gradients(checkpoint: bool) -> list[Tensor]:
        torch.manual_seed(1)
        net = trained(Upsampler(NANO, image_px=16, low_px=8, checkpoint_levels=checkpoint))
        net(*inputs(8))[0].square().sum().backward()
        return [value.grad for value in net.parameters() if value.grad is not None]

    first, again = gradients(False), gradients(True)
    assert len(first) > 20
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("image_px", [256, 512])
def test_the_papers_size_has_the_papers_number_of_parameters(image_px: int) -> None:
    size = SIZES["upsampler"]
    with torch.device("meta"):
        text = TextNetwork(768, size.text_width, depth=size.text_layers, num_heads=size.heads)
        nets = (text, MappingNetwork(size), Upsampler(size, image_px=image_px, low_px=64))
    number = sum(value.numel() for net in nets for value in net.parameters())
    assert number == pytest.approx(PAPER_PARAMETERS, rel=0.01)


def test_images_enter_the_discriminator_down_to_the_small_one_and_are_judged_down_to_4_px() -> None:
    assert judgements(32, 16) == [(0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    assert judgements(32, 4) == judgements(32)
    net = Discriminator(NANO, image_px=32, lowest_px=16)
    assert len(net.from_rgb) == 2
    leaves = [image.requires_grad_() for image in pyramid(torch.randn(4, 3, 32, 32), 16)]
    logits = net(leaves, torch.randn(4, 1, NANO.text_width))
    assert logits.shape == (4, 1, 7)
    for number, (level, _) in enumerate(judgements(32, 16)):
        slopes = torch.autograd.grad(logits[0, 0, number], leaves, retain_graph=True, allow_unused=True)
        assert [slope is not None and bool(slope.abs().max() > 0) for slope in slopes] == [level == 0, level == 1]
    assert losses.level_weights(32, 16) == pytest.approx([2 / 3, 1 / 3])
    torch.testing.assert_close(losses.at_last_stage(logits[:, 0], 32, 16), logits[:, 0, [5, 6]])


def write_lpips(folder: Path) -> Path:
    widths, places = [width for stage in STAGES for width in stage], [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    vgg = {"classifier.0.weight": torch.zeros(2, 2)}
    for place, before, width in zip(places, [3, *widths[:-1]], widths, strict=True):
        vgg[f"features.{place}.weight"] = torch.randn(width, before, 3, 3) * math.sqrt(2 / (9 * before))
        vgg[f"features.{place}.bias"] = 0.1 * torch.randn(width)
    lins = {f"lin{number}.model.1.weight": torch.rand(1, stage[-1], 1, 1) for number, stage in enumerate(STAGES)}
    folder.mkdir()
    save_file(vgg, folder / "vgg16.safetensors")
    save_file(lins, folder / "lpips.safetensors")
    return folder


@pytest.fixture(scope="module")
def lpips_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return write_lpips(tmp_path_factory.mktemp("judges") / "lpips")


def lpips_by_hand(folder: Path, one: Tensor, other: Tensor) -> Tensor:
    """The published network, layer by layer: VGG-16's `features` up to each relu*_2 or relu*_3, and `lin`."""
    vgg, lins = load_file(folder / "vgg16.safetensors"), load_file(folder / "lpips.safetensors")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    features: list[list[Tensor]] = []
    for image in (one, other):
        x = (image - shift.view(3, 1, 1)) / scale.view(3, 1, 1)
        seen = []
        for place in range(30):
            if f"features.{place}.weight" in vgg:
                x = F.conv2d(x, vgg[f"features.{place}.weight"], vgg[f"features.{place}.bias"], padding=1)
            elif place in (4, 9, 16, 23):
                x = F.max_pool2d(x, 2, 2)
            else:
                x = x.clamp(min=0)
            if place in (3, 8, 15, 22, 29):
                seen.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        features.append(seen)
    return sum(  # type: ignore[return-value]
        F.conv2d((a - b).square(), lins[f"lin{number}.model.1.weight"]).mean(dim=(1, 2, 3))
        for number, (a, b) in enumerate(zip(*features, strict=True))
    )


def test_lpips_is_the_published_one(lpips_folder: Path) -> None:
    net, one, other = Lpips(lpips_folder), torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(net(one, other), lpips_by_hand(lpips_folder, one, other), rtol=1e-4, atol=1e-6)
    same = one.clone().requires_grad_()
    apart = net(same, one)
    apart.sum().backward()
    assert apart.abs().max() < 1e-6
    assert same.grad is not None
    assert same.grad.isfinite().all()
    assert not any(value.requires_grad for value in net.parameters())


def test_a_folder_that_is_not_of_lpips_says_what_to_write(tmp_path: Path, lpips_folder: Path) -> None:
    with pytest.raises(PretrainedError, match=r"model\.lpips=.*: no vgg16\.safetensors there; write"):
        Lpips(tmp_path)
    with shapes_alone():
        assert (
            sum(value.numel() for value in Lpips(tmp_path).parameters()) == 14_714_688 + 1_472
        )  # who plans reads none
    for file in lpips_folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "lpips.safetensors").unlink()
    save_file({"lin0.model.1.weight": torch.rand(1, 64, 1, 1)}, tmp_path / "lpips.safetensors")
    with pytest.raises(PretrainedError, match=r"lin1\.model\.1\.weight: missing, expected \(128,\)"):
        Lpips(tmp_path)
    (tmp_path / "lpips.safetensors").write_bytes(b"no tensors")
    with pytest.raises(PretrainedError, match=r"lpips\.safetensors is unreadable"):
        Lpips(tmp_path)


def generator_losses(recipe: Recipe, batch: dict[str, Any]) -> dict[str, Tensor]:
    (phase,) = (phase for phase in recipe.phases(Clock(0, 0)) if phase.name == "generator")
    return phase.loss(context(recipe), batch)


def test_a_drawing_is_held_against_its_image_by_lpips_or_else_by_pixels(lpips_folder: Path) -> None:
    batch, still = batch_of(), {"noise_sigma": 0.0, "sample_sigma": 0.0}
    larger = enlarged(pyramid(batch["image"], 8)[-1])
    found = generator_losses(made(**still, pixel_weight=3.0), batch)
    wanted = 3.0 * 2 / 3 * (larger - batch["image"]).square().mean()  # the small one comes back as it is
    torch.testing.assert_close(found["pixels"].detach(), wanted)
    assert "pixels" not in generator_losses(made(pixel_weight=0.0), batch)
    found = generator_losses(made(**still, lpips=str(lpips_folder), lpips_weight=2.0), batch)
    assert "pixels" not in found
    wanted = 2.0 * Lpips(lpips_folder)(larger, batch["image"]).mean()
    torch.testing.assert_close(found["lpips"].detach(), wanted)


def test_small_images_have_noise_of_their_own_amount_in_training_and_of_one_in_samples() -> None:
    recipe, seen = made(noise_sigma=0.5, sample_sigma=0.25), []
    ctx, batch = context(recipe), batch_of()

    def spy(low: Tensor, sigma: Tensor, *rest: Tensor) -> list[Tensor]:
        seen.append((low, sigma))
        return [torch.zeros(4, 3, 16, 16), low]

    ctx.nets = {**ctx.nets, "synthesis": spy}
    recipe.phases(Clock(0, 0))[0].loss(ctx, batch)
    clean = pyramid(batch["image"], 8)[-1]
    recipe.sample(ctx, {**recipe.conditions(CAPTIONS), "image": clean}, 4)
    (noisy, amount), (drawn_from, fixed) = seen
    assert len(set(amount.tolist())) == 4
    assert float(amount.min()) > 0.0
    assert float(amount.max()) < 0.5
    measured = (noisy - clean).flatten(1).std(dim=1)
    torch.testing.assert_close(measured, amount, rtol=0.25, atol=0.0)
    assert fixed.tolist() == [0.25] * 4
    assert float((drawn_from - clean).std()) == pytest.approx(0.25, rel=0.15)


def test_truncated_samples_have_the_styles_of_a_base_model() -> None:
    recipe = made(truncation=0.5)
    ctx = context(recipe)
    phases = {phase.name: phase for phase in recipe.phases(Clock(0, 0))}
    phases["generator"].loss(ctx, batch_of())
    assert recipe.state_dict()["mean_style_steps"] == 1.0
    seen: list[Tensor] = []
    ctx.nets["synthesis"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2]))
    given = {"caption": CAPTIONS, "image": torch.zeros(4, 3, 8, 8)}
    recipe.sample(replace(ctx, draw=Draw(seed=3, first=0, count=4)), given, 4)
    base = GigaGAN(BaseSettings(**NANO_SETTINGS, image_px=16, truncation=0.5))
    base.load_state_dict(recipe.state_dict())
    with torch.no_grad():
        drawn = Draw(seed=3, first=0, count=4).normal(NANO.latent_width)
        torch.testing.assert_close(seen[0], base._told_of(ctx, drawn, CAPTIONS)[0])


def test_scores_are_those_of_the_enlargement_before_anything_is_learned() -> None:
    recipe, batch = made(sample_sigma=0.0), batch_of()
    found = recipe.evaluate(context(recipe), batch)
    low = pyramid(batch["image"], 8)[-1]
    larger = F.interpolate(low, scale_factor=2, mode="bicubic").clamp(-1, 1)
    square = ((larger - batch["image"]) / 2).square().mean(dim=(1, 2, 3))
    for name in ("psnr_db", "psnr_bicubic_db"):
        torch.testing.assert_close(found[name], -10 * square.log10())
    back = F.interpolate(larger, scale_factor=0.5, mode="area")
    torch.testing.assert_close(found["consistency"], (back - low).abs().mean(dim=(1, 2, 3)))


def test_a_chain_draws_small_images_and_enlarges_them_with_other_random_numbers() -> None:
    base, upsampler = model_of(made("gigagan", image_px=8)), model_of(made())
    drawn = Chain(base, upsampler).draw(CAPTIONS, seed=3)
    assert drawn.shape == (4, 16, 16, 3)
    small = base.draw(CAPTIONS, seed=3)
    larger = enlarged(torch.from_numpy(small).permute(0, 3, 1, 2).float()).permute(0, 2, 3, 1).numpy()
    assert np.abs(drawn - larger.clip(0, 255)).mean() < 8.0  # grey levels: it has learned nothing yet
    np.testing.assert_array_equal(drawn, upsampler.draw(CAPTIONS, seed=-4, images=small))
    assert not np.array_equal(drawn, upsampler.draw(CAPTIONS, seed=3, images=small))


def test_the_command_chains_a_checkpoint_and_an_export_which_needs_no_lpips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {}
    with shapes_alone():  # LPIPS is nowhere
        for name, recipe, extra in (
            ("base", "gigagan", {"image_px": 8}),
            ("upsampler", "gigagan_upsampler", {"image_px": 16, "low_px": 8, "lpips": "gone"}),
        ):
            job = {"name": name, "recipe": recipe, "model": {**NANO_SETTINGS, **extra}, "tracking": {"uri": ""}}
            places[name] = write_model(tmp_path / name / "checkpoints", job, images=64)
    export(Trained(places["upsampler"]), tmp_path / "exported")
    base, chained = str(tmp_path / "base"), [*CAPTIONS, "--seed", "3", "-o", str(tmp_path / "4.png")]
    assert main(["sample", base, *chained, "--upsampler", str(tmp_path / "exported"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["upsampler"] == str(tmp_path / "exported")
    assert main(["sample", base, "red heart", "--upsampler", base, "-o", str(tmp_path / "1.png")]) == 2
    assert "that model enlarges nothing; name one" in capsys.readouterr().err
    assert main(["sample", str(tmp_path / "exported"), *chained]) == 2
    assert "write gen-dist sample BASE PROMPT --upsampler MODEL" in capsys.readouterr().err
    assert main(["sample", base, "red heart", "--upsampler", str(tmp_path / "exported"), "-o", chained[-1]]) == 0
    assert Image.open(chained[-1]).size == (16, 16)


def draws_alone(model: Model) -> None:
    model.draw(CAPTIONS)


def draws_from_another_side(model: Model) -> None:
    model.draw(CAPTIONS, images=np.zeros((4, 4, 4, 3), dtype=np.uint8))


def follows_a_larger_base(model: Model) -> None:
    Chain(model_of(made("gigagan", image_px=16)), model)


def follows_itself(model: Model) -> None:
    Chain(model, model)


def enlarges_with_a_base(model: Model) -> None:
    Chain(model, model_of(made("gigagan", image_px=16)))


@pytest.mark.parametrize(
    ("call", "failure", "message"),
    [
        (draws_alone, PromptError, "nothing to enlarge, for an upsampler of 8 px to 16 px; write gen-dist sample BASE"),
        (draws_from_another_side, PromptError, "images of 4 x 4 px, for an upsampler of 8 px"),
        (follows_a_larger_base, ChainError, "draws 16 px and the upsampler enlarges 8 px; name a base model of 8 px"),
        (follows_itself, ChainError, "draws 16 px and the upsampler enlarges 8 px"),
        (enlarges_with_a_base, ChainError, "enlarges nothing; name one of a recipe such as gigagan_upsampler"),
    ],
)
def test_models_that_do_not_fit_say_what_to_name(
    call: Callable[[Model], None], failure: type[Exception], message: str
) -> None:
    with pytest.raises(failure, match=message):
        call(model_of(made()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"low_px": 32}, "image_px=32 is no larger than low_px=32; write image_px = 128"),
        ({"low_px": 4}, "expected 8 px or a doubling of it; write 8 or 16"),
        ({"sample_sigma": 0.3}, "more noise than it learns from; write 0.1 or less"),
        ({"vision": "clip"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_cannot_be_say_what_to_write(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings(**settings)
