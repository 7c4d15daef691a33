"""Two runs of one autoencoder: the first trains it, its latents are stored, and the second learns from them alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gen_dist import checkpoint
from tests.support import cli
from tests.support.gateway import run_gateway
from tests.support.shards import write_shards

JOB = str(cli.ROOT / "jobs" / "smoke" / "latent_diffusion.toml")
ON_LATENTS = ("name=on-latents", "model.autoencoder=runs/smoke-latent-diffusion", "model.latents=derived")
SHORT = ("cluster.num_workers=1", "train.total_images=192", "train.sample_every_images=0")


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def model_of(home: Path) -> str:
    return "elsewhere" if (home / "elsewhere").is_dir() else "runs/smoke-latent-diffusion"


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
    settings = words(*SHORT, *ON_LATENTS, f"model.autoencoder={model_of(home)}", "name=no-latents")
    done = cli.run("train", JOB, *settings, cwd=home)
    assert done.returncode == 2
    assert "run `gen-dist data derive MODEL embedded://emoji DEST`" in " ".join(done.stderr.split()), done.stderr


def test_a_bucket_gets_the_shards_that_a_folder_gets(home: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "source", num_samples=10, per_shard=4)
    verb = ("data", "derive", model_of(home))
    cli.report(*verb, str(tmp_path / "source"), str(tmp_path / "latents"), cwd=home)
    with run_gateway(tmp_path / "gateway") as gateway:
        gateway.upload(tmp_path / "source", prefix="source")
        urls = [f"s3://{gateway.bucket}/{prefix}" for prefix in ("source", "latents")]
        where = ("--endpoint-url", gateway.endpoint_url, "--addressing", "path")
        for num_made in (3, 0):
            made = cli.report(*verb, *urls, *where, cwd=home, env=gateway.environment)
            assert (made["num_samples"], made["num_made"]) == (10, num_made)
        for path in (tmp_path / "latents").glob("*.tar"):
            there = gateway.client().get_object(Bucket=gateway.bucket, Key=f"latents/{path.name}")
            assert there["Body"].read() == path.read_bytes()
