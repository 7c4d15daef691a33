"""Two runs of one autoencoder: the first trains it, its latents are stored, and the second learns from them alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gen_dist import checkpoint
from tests.support import cli

JOB = str(cli.ROOT / "jobs" / "smoke" / "latent_diffusion.toml")
ON_LATENTS = ("name=on-latents", "model.autoencoder=runs/smoke-latent-diffusion", "model.latents=derived")
SHORT = ("cluster.num_workers=1", "train.total_images=192", "train.sample_every_images=0")


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    cli.report("train", JOB, *words(*SHORT), cwd=folder)
    cli.report("data", "derive", "runs/smoke-latent-diffusion", "embedded://emoji", "latents", cwd=folder)
    return folder


def test_a_run_on_stored_latents_ends_with_a_model_that_travels_alone(home: Path) -> None:
    settings = words(*SHORT, *ON_LATENTS, "data.derived=latents")
    done: dict[str, Any] = cli.report("train", JOB, *settings, cwd=home)
    assert done["finished"]
    manifest = checkpoint.read_manifest(home / done["checkpoint"])
    assert manifest.group_steps == {"denoiser": 12}
    weights = checkpoint.read_model(home / done["checkpoint"])
    assert not [name for name in weights if name.startswith(("encoder.", "decoder."))]
    (home / "runs" / "smoke-latent-diffusion").rename(home / "elsewhere")
    shutil.rmtree(home / "latents")
    cli.report("sample", done["model_alias"], "red apple", "-o", "apple.png", cwd=home)
    assert (home / "apple.png").stat().st_size > 100


def test_a_run_without_the_latents_is_told_how_to_make_them(home: Path) -> None:
    model = "elsewhere" if (home / "elsewhere").is_dir() else "runs/smoke-latent-diffusion"
    settings = words(*SHORT, *ON_LATENTS, f"model.autoencoder={model}", "name=no-latents")
    done = cli.run("train", JOB, *settings, cwd=home)
    assert done.returncode == 2
    assert "run `gen-dist data derive MODEL embedded://emoji DEST`" in " ".join(done.stderr.split()), done.stderr
