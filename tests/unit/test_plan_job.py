"""Plans of the jobs of the catalog, by the parts of `gen-dist plan` and as a person starts it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from gen_dist.cli.app import main
from gen_dist.job.load import load_job
from gen_dist.job.settings import zero_max
from gen_dist.job.spec import JobSpec
from gen_dist.plan.configuration import Weighing
from gen_dist.plan.duration import MFU, Setting
from gen_dist.plan.errors import PlanError
from gen_dist.plan.gpus import GPUS, find_gpu
from gen_dist.plan.growth import Growth
from gen_dist.plan.memory import Memory
from gen_dist.plan.plan import Asked, Plan, make_plan
from gen_dist.plan.trace import Model
from gen_dist.recipes import catalog
from tests.contract.cases import HARDEST, HEIRS
from tests.support.text_models import write_clip

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("weights", "gradients", "optimizer", "activations", "batch", "buffers", "margin")


def job_of(recipe: str, *overrides: str) -> JobSpec:
    return load_job(ROOT / "jobs" / "smoke" / f"{recipe}.toml", overrides)


@cache
def model_of(recipe: str) -> Model:
    return Model(job_of(recipe))


def plan_of(recipe: str, **asked: object) -> Plan:
    given = {"gpu": find_gpu("h100"), "workers": 4, **asked}
    return make_plan(job_of(recipe), Asked(**given), model=model_of(recipe))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=[pytest.mark.long] if name in (*HEIRS, HARDEST) else []) for name in catalog.RECIPES],
)
def test_every_recipe_of_the_catalog_is_planned_as_it_stands(recipe: str) -> None:
    plan = plan_of(recipe, price_per_gpu_hour=3.0)
    facts = json.loads(json.dumps(plan.facts()))
    assert plan.best.fits
    assert plan.best.configuration.micro_batch_images * plan.best.accumulation * 4 == 16
    assert facts["recommended"]["price"] == pytest.approx(plan.best.run_s / 3600 * 4 * 3.0)
    assert facts["recommended"]["days"] * 86400 * plan.images_per_s(plan.best) == pytest.approx(320)
    assert facts["storage"]["sample_bytes_from"].startswith("4 shards of 1733")
    for outcome in [*plan.outcomes, plan.own]:
        memory: Memory = outcome.memory
        assert sum(getattr(memory, part) for part in PARTS) == memory.total
    highest = [outcome.configuration.stages for outcome in plan.outcomes if not outcome.configuration.offload][-1]
    assert dict(highest) == zero_max(
        model_of(recipe).recipe.settings
    )  # ZeRO 3 where a group allows it, and its highest where not


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(recipe, marks=[pytest.mark.long] if recipe in HEIRS else []) for recipe in catalog.RECIPES],
)
def test_a_line_through_two_sizes_is_what_a_third_takes(recipe: str) -> None:
    model = model_of(recipe)
    line, counted = Growth(model).costs(20), model.costs(20)
    for name, cost in counted.items():
        assert line[name].activation_bytes == pytest.approx(cost.activation_bytes, rel=0.01)
        assert line[name].flops == pytest.approx(cost.flops, rel=0.01)


@pytest.mark.long
def test_a_pretrained_model_that_is_not_here_is_planned_by_the_name_of_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = write_clip(tmp_path, weights=False)["clip-vit-l-14-text"]
    missing = tmp_path / "away" / written.name
    read, assumed = (Model(job_of("latent_diffusion", f"model.text_encoder={folder}")) for folder in (written, missing))
    assert (read.assumed, list(assumed.assumed)) == ({}, [str(missing)])
    assert assumed.frozen_bytes() == read.frozen_bytes() > 4 * 123_000_000
    assert assumed.costs(2) == read.costs(2)
    words = ["--set", f"model.text_encoder={missing}"]
    assert main(["plan", str(ROOT / "jobs" / "smoke" / "latent_diffusion.toml"), "--gpu", "h100", *words]) == 0
    said = f"{missing} is not here: sizes of the text model of CLIP ViT-L/14"
    assert [line for line in capsys.readouterr().out.splitlines() if line.endswith(said)]


@pytest.mark.long
def test_a_phase_of_full_precision_is_planned_in_fp32_where_training_computes_it_so() -> None:
    narrow = Model(job_of("gigagan", "train.precision=bf16"))
    found, wide = narrow.costs(4), model_of("gigagan").costs(4)
    assert {name: cost.precision for name, cost in found.items()} == {
        "discriminator": "bf16",
        "penalty": "fp32",
        "generator": "bf16",
    }
    assert found["penalty"].activation_bytes == pytest.approx(wide["penalty"].activation_bytes, rel=1e-3)
    copies = 4 * sum(narrow.net_sizes()[net].total for net in found["penalty"].calls)
    moved = found["penalty"].moved_bytes - wide["penalty"].moved_bytes
    assert moved >= 1.5 * copies, "fp32 copies of bf16 weights are written, and read for their gradients"
    assert found["generator"].activation_bytes < 0.7 * wide["generator"].activation_bytes
    split = narrow.costs(4, {"discriminator"})["penalty"]  # at ZeRO-3 there are no whole weights to copy
    assert (split.precision, split.activation_bytes < 0.6 * found["penalty"].activation_bytes) == ("bf16", True)
    assert narrow.costs(4, {"generator"}) is found


def test_zero_3_is_as_high_as_the_settings_of_the_job_allow() -> None:
    stages = {}
    for form in ("exact", "differences"):
        job = job_of("gigagan", f"model.r1_form={form}")
        stages[form] = Weighing(job, Model(job), Setting(find_gpu("h100"), 2, "fp32", 0, mfu=MFU)).stages(3)
    assert stages["exact"] == {"generator": 3, "discriminator": 2}
    assert stages["differences"] == {"generator": 3, "discriminator": 3}


def test_costs_are_asked_for_with_the_groups_whose_weights_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = model_of("dcgan"), set()
    costs = model.costs
    monkeypatch.setattr(model, "costs", lambda size, split=(): (asked.add(frozenset(split)), costs(size, split))[1])
    weighing = Weighing(job_of("dcgan"), model, Setting(find_gpu("h100"), 4, "fp32", 0, mfu=MFU))
    for stage, split in ((3, {"generator"}), (2, set())):
        asked.clear()
        weighing.best(weighing.stages(stage), offload=False, growth=Growth(model))
        assert asked == {frozenset(split)}


def test_what_the_largest_micro_batch_takes_fits_and_one_more_does_not() -> None:
    plan, model = plan_of("ddpm"), model_of("ddpm")
    growth, largest = Growth(model), plan.outcomes[0].largest_micro_batch_images
    per_image = growth.costs(101)["denoiser"].activation_bytes - growth.costs(100)["denoiser"].activation_bytes
    used = plan.outcomes[0].memory.total
    room = GPUS["h100"].memory_bytes - used
    assert largest * per_image <= room + 10 * per_image
    assert (largest + 10) * per_image * 1.1 >= room


def test_a_measured_speed_takes_the_place_of_a_guess() -> None:
    one = plan_of("ddpm", workers=1, measured_images_per_s=50.0)
    assert one.images_per_s(one.own) == pytest.approx(50.0, rel=0.01)
    four = plan_of("ddpm", workers=4, measured_images_per_s=50.0)
    assert four.images_per_s(four.own) == pytest.approx(200.0, rel=0.05)


def test_a_batch_that_workers_cannot_share_is_told_with_what_to_write() -> None:
    with pytest.raises(PlanError, match=r"batch_images=16 is not a multiple of it; write --workers 4, or --set .*=20"):
        plan_of("ddpm", workers=5)
    with pytest.raises(PlanError, match="--workers 0: expected 1 or more"):
        plan_of("ddpm", workers=0)


def test_where_nothing_fits_the_nearest_is_told_and_what_would_help() -> None:
    job = job_of("ddpm", "model.image_px=1024", "model.channels=[128,128]")
    with pytest.raises(PlanError) as caught:
        make_plan(job, Asked(find_gpu("l4"), 2))
    (line,) = caught.value.lines
    assert line.startswith("nothing fits on 2 x l4 with 24 GB: nearest is ZeRO ")
    assert "% of it activations" in line
    assert "write --gpu " in line or "lower model.image_px" in line


def test_the_page_and_its_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", str(ROOT / "jobs" / "smoke" / "dcgan.toml"), "--gpu", "a100-40", "--workers", "2"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert main(words[:-2]) == 0  # as many workers as the job says, which are 2
    page = capsys.readouterr().out
    best = facts["recommended"]
    assert f"{best['name']}, micro-batch {best['micro_batch_images']} x {best['accumulation']}" in page
    assert f"{best['images_per_s']:,.0f} images/s" in page
    assert main(["plan", words[1], "--gpu", "h1000", "--workers", "2"]) == 2
    assert "did you mean 'h100'?" in capsys.readouterr().err
