"""What cannot be trained or drawn with GigaGAN: each is one line that says what was seen and what to write instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gen_dist.data.derived import differing
from gen_dist.job.errors import JobError
from gen_dist.job.load import load_job
from gen_dist.nets.pretrained import PretrainedError
from gen_dist.recipes.captions import TEXT
from gen_dist.recipes.contract import Clock
from gen_dist.recipes.gigagan_settings import LARGEST_PX
from gen_dist.sample.model import Model
from gen_dist.sample.source import SourceError
from tests.contract import distributed
from tests.contract.cases import SMOKE, Case, small_case
from tests.contract.test_gigagan import CAPTIONS, batch_of, context, made
from tests.support.ranks import Ranks
from tests.support.text_models import write_pair_model, write_text_model

CPU = torch.device("cpu")


def with_model(**model: Any) -> Case:
    case = small_case("gigagan", total_images=64)
    return Case(case.job.model_copy(update={"model": {**case.job.model, **model}}), eps=case.eps)


@pytest.mark.parametrize(
    ("setting", "value", "losses"),
    [
        ("discriminator_learning_rate", 1e30, ["discriminator/real=", "penalty/r1=", "generator/fool="]),
        ("generator_learning_rate", 1e30, ["discriminator/fake="]),
        ("r1_gamma", 1e39, ["penalty/r1="]),
        ("matching_weight", 1e39, ["discriminator/real_wrong="]),
    ],
)
def test_a_loss_that_is_no_number_ends_the_run_by_its_name(
    single: Ranks, setting: str, value: float, losses: list[str]
) -> None:
    ((kind, text, _),) = single.run(distributed.train_until_refused, with_model(**{setting: value}))
    assert kind == "NonFiniteLossError"
    assert any(loss in text for loss in losses), text
    assert "lower the learning rate under [model]" in text
    assert len(text.splitlines()) == 1


def test_stored_text_of_another_length_or_encoder_is_refused_before_the_run(tmp_path: Path) -> None:
    clip, t5 = (str(write_text_model(tmp_path / kind, kind)) for kind in ("clip", "t5"))  # type: ignore[arg-type]
    wanted = made(text_encoder=clip, text="derived")
    stored = wanted.made_with()
    assert differing(stored, wanted.made_with()) == ""
    longer = made(text_encoder=clip, text="derived", text_tokens=8)
    assert differing(stored, longer.made_with()) == f".{TEXT}: tokens is 6, and the run wants 8"
    other = made(text_encoder=t5, text="derived")
    assert differing(stored, other.made_with()).startswith(f".{TEXT}: encoder is ")


def test_weights_of_a_text_encoder_of_another_width_are_refused(tmp_path: Path) -> None:
    wide = write_text_model(tmp_path, "t5", width=32)
    recipe = made(text_encoder=str(write_text_model(tmp_path / "narrow", "clip")))
    torch.manual_seed(0)
    nets = recipe.networks().items()
    weights = {f"{name}.{key}": value for name, net in nets for key, value in net.state_dict().items()}
    Model.from_weights(recipe, weights, device=CPU)
    message = r"text\.inward\.weight: \(16, 16\) in the weights and \(16, 32\) here .* the text_encoder that they were"
    with pytest.raises(SourceError, match=message):
        Model.from_weights(made(text_encoder=str(wide)), weights, device=CPU)


@pytest.mark.parametrize(
    ("setting", "part"), [("text_encoder", ""), ("clip", "text_config"), ("vision", "vision_config")]
)
def test_a_folder_whose_weights_are_of_another_width_than_it_says_is_refused(
    tmp_path: Path, setting: str, part: str
) -> None:
    folder = write_pair_model(tmp_path) if part else write_text_model(tmp_path, "clip")
    facts = json.loads((folder / "config.json").read_text())
    (facts[part] if part else facts)["hidden_size"] = 32
    (folder / "config.json").write_text(json.dumps(facts))
    with pytest.raises(
        PretrainedError, match=rf"model\.{setting}=.*: transformers cannot read it: .*mismatch"
    ) as caught:
        made(**{setting: str(folder)})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("setting", ["text_encoder", "clip"])
def test_a_folder_without_a_tokenizer_is_told_by_the_setting_that_names_it(tmp_path: Path, setting: str) -> None:
    folder = write_pair_model(tmp_path) if setting == "clip" else write_text_model(tmp_path, "clip")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(
        PretrainedError, match=rf"^model\.{setting}=.*: no vocabulary there .*; put the model's tokenizer"
    ):
        made(**{setting: str(folder)})


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (
            "gigagan",
            ["model.text_buckets=2"],
            "expected a whole number of at least 3; write such as 16384, the default",
        ),
        ("gigagan_upsampler", ["model.text_buckets=1"], "expected a whole number of at least 3; write such as"),
        ("latent_diffusion", ["model.text_buckets=2"], "expected a whole number of at least 3; write such as"),
        ("gigagan", ["model.image_px=128"], "size='nano' has no channels at image_px=128; write image_px = 64 or less"),
        ("gigagan", ["model.size=tiny", "model.image_px=1024"], "write image_px = 512 or less, or a larger size"),
        ("gigagan_upsampler", ["model.low_px=64", "model.image_px=128"], "size='nano' has no channels at image_px=128"),
        ("gigagan", ["model.augment=fixed", "model.augment_kinds=[]"], "augment='fixed' without augment_kinds; write"),
    ],
)
def test_a_setting_that_no_network_can_be_made_of_is_refused_before_the_run(
    recipe: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(JobError) as caught:
        load_job(SMOKE / f"{recipe}.toml", overrides)
    (line,) = str(caught.value).splitlines()
    assert message in line


def test_the_least_rows_of_words_and_the_largest_image_of_a_size_are_learned_from() -> None:
    recipe = made(text_buckets=3, image_px=LARGEST_PX["nano"])
    torch.manual_seed(0)
    nets, batch = recipe.networks(), batch_of(CAPTIONS)
    batch["image"] = torch.rand(4, 3, 64, 64) * 2 - 1
    for phase in recipe.phases(Clock(0, 0)):
        found = phase.loss(context(recipe, nets, count=4), batch)
        assert all(value.isfinite() for value in found.values())


@pytest.mark.parametrize("recipe", ["gigagan", "gigagan_upsampler"])
def test_micro_batches_of_one_image_are_refused_where_wrong_captions_are_wanted(recipe: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(SMOKE / f"{recipe}.toml", ["train.micro_batch_images=1"])
    (line,) = str(caught.value).splitlines()
    assert line.endswith(
        f"train.micro_batch_images=1: recipe '{recipe}' compares an image with others of its micro-batch; write 2 or"
        " more, or model.matching_weight = 0"
    )
    without = load_job(SMOKE / f"{recipe}.toml", ["train.micro_batch_images=1", "model.matching_weight=0"])
    assert without.train.micro_batch_images == 1
    assert load_job(SMOKE / f"{recipe}.toml", ["train.micro_batch_images=2"]).train.micro_batch_images == 2


@pytest.mark.parametrize(
    ("override", "key", "remedy"),
    [
        ("train.zero_stages.discriminator=3", "train.zero_stages.discriminator=3: above 2", "write 2"),
        ("train.zero_stage=3", "train.zero_stage=3: above 2", "write train.zero_stages.discriminator = 2"),
    ],
)
def test_a_stage_that_the_exact_penalty_does_not_allow_is_refused_before_the_run(
    override: str, key: str, remedy: str
) -> None:
    with pytest.raises(JobError) as caught:
        load_job(SMOKE / "gigagan.toml", [override])
    (line,) = str(caught.value).splitlines()
    assert key in line
    assert "the highest of group 'discriminator' (a phase of it differentiates twice" in line
    assert remedy in line
    assert load_job(SMOKE / "gigagan.toml", [override, "model.r1_form=differences"]).recipe == "gigagan"
