"""Trained parameters are counted without making them, also beside pretrained models and another run's autoencoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from gen_dist.job.load import load_job
from gen_dist.job.spec import JobSpec
from gen_dist.nets.autoencoder import PARTS, SHARED, StoredAutoencoder
from gen_dist.plan.trace import Model
from gen_dist.recipes import catalog
from gen_dist.train.footprint import num_parameters
from tests.support.cli import ROOT
from tests.support.text_models import write_pair_model, write_text_model


def job_of(recipe: str, overrides: Sequence[str] = ()) -> JobSpec:
    return load_job(ROOT / "jobs" / "smoke" / f"{recipe}.toml", overrides)


def made(job: JobSpec) -> int:
    networks = catalog.build(job.recipe, job.model).networks()
    return sum(parameter.numel() for net in networks.values() for parameter in net.parameters())


@pytest.mark.parametrize("recipe", catalog.RECIPES)
def test_as_many_are_counted_as_are_made(recipe: str) -> None:
    assert num_parameters(job_of(recipe)) == made(job_of(recipe)) > 0


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_a_pretrained_model_beside_them_is_in_nobodys_way(kind: Literal["clip", "t5"], tmp_path: Path) -> None:
    text = write_text_model(tmp_path / "text", kind)
    pair = write_pair_model(tmp_path / "pair")
    for recipe, settings in (("latent_diffusion", {}), ("gigagan", {"clip": pair, "vision": pair})):
        folders = [f"model.{setting}={folder}" for setting, folder in {"text_encoder": text, **settings}.items()]
        job = job_of(recipe, folders)
        assert num_parameters(job) == made(job) > 0


def test_a_flagship_job_is_counted_in_a_fresh_clone() -> None:
    job = load_job(ROOT / "jobs" / "latent-diffusion" / "large-256.toml", looks_at_data=False)
    assert num_parameters(job) == pytest.approx(1_198e6, rel=0.001)  # as infra/README.md says: 41 M and 1,157 M


def test_another_runs_autoencoder_is_read_and_not_counted(tmp_path: Path) -> None:
    whole = job_of("latent_diffusion")
    recipe = catalog.build(whole.recipe, whole.model)
    nets = recipe.networks()
    weights = {f"{part}.{name}": value for part in PARTS for name, value in nets[part].state_dict().items()}
    settings = {key: whole.model[key] for key in (*SHARED, "autoencoder_images")}
    StoredAutoencoder(settings, weights, recipe.state_dict()).write(tmp_path / "autoencoder")
    job = job_of("latent_diffusion", [f"model.autoencoder={tmp_path / 'autoencoder'}"])
    both = sum(value.numel() for part in PARTS for value in nets[part].parameters())
    assert num_parameters(job) == made(job) == num_parameters(whole) - both
    assert set(Model(job).costs(2)) == {"denoiser"}


def test_a_folder_that_only_the_cluster_has_leaves_the_count_open(tmp_path: Path) -> None:
    assert num_parameters(job_of("latent_diffusion", [f"model.text_encoder={tmp_path / 'my-encoder'}"])) == 0
