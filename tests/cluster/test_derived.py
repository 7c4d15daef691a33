"""Two runs of one autoencoder: the first trains it, its latents are stored, and the second learns from them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gen_dist.registry.find import find_model
from gen_dist.sample.trained import Trained
from tests.support import cli
from tests.support.gateway import run_gateway

JOB = str(cli.ROOT / "jobs" / "smoke" / "latent_diffusion.toml")
ON_LATENTS = ("name=on-latents", "model.autoencoder=runs/smoke-latent-diffusion", "model.latents=derived")
SHORT = ("cluster.num_workers=1", "train.total_images=192", "train.sample_every_images=0")


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


@pytest.mark.timeout(600)  # two runs, each with a cluster of its own
def test_a_run_on_latents_with_checkpoints_in_a_bucket_ends_with_a_model_that_travels_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.report("train", JOB, *words(*SHORT), cwd=tmp_path)
    with run_gateway(tmp_path / "gateway") as gateway:
        latents = f"s3://{gateway.bucket}/latents"
        where = ("--endpoint-url", gateway.endpoint_url, "--addressing", "path")
        verb = ("data", "derive", "runs/smoke-latent-diffusion", "embedded://emoji", latents)
        assert cli.report(*verb, *where, cwd=tmp_path, env=gateway.environment)["num_made"] > 0
        keys = [f"data.s3.endpoint_url={gateway.endpoint_url}", "data.s3.addressing=path", f"data.derived={latents}"]
        kept = f"s3://{gateway.bucket}/runs"
        where_kept = (
            f"run.checkpoints={kept}",
            f"run.s3.endpoint_url={gateway.endpoint_url}",
            "run.s3.addressing=path",
        )
        settings = words(*SHORT, *ON_LATENTS, *keys, *where_kept)
        done: dict[str, Any] = cli.report("train", JOB, *settings, cwd=tmp_path, env=gateway.environment)
        for name, value in gateway.environment.items():
            monkeypatch.setenv(name, value)
        found = find_model(str(tmp_path / "runs" / "on-latents"))
        assert isinstance(found, Trained)
        assert found.place == done["checkpoint"]
        assert found.place.startswith(f"{kept}/on-latents/images-000000000192.a")
        found.checkpoint.verify()
        weights = found.weights()
    assert done["finished"]
    assert not (tmp_path / "runs" / "on-latents" / "checkpoints").exists()
    assert found.checkpoint.manifest.facts["group_steps"] == {"denoiser": 12}
    assert not [name for name in weights if name.startswith(("encoder.", "decoder."))]
    (tmp_path / "runs" / "smoke-latent-diffusion").rename(tmp_path / "elsewhere")
    cli.report("sample", done["model_alias"], "red apple", "-o", "apple.png", cwd=tmp_path)
    assert (tmp_path / "apple.png").stat().st_size > 100
