"""The same job elsewhere: data in S3, a range of workers, a Ray cluster that stands already."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gen_dist.data import emoji
from tests.support import cli
from tests.support.ray_cluster import StandingCluster
from tests.support.text_models import write_text_model

DIFFUSION = str(cli.ROOT / "jobs" / "smoke" / "latent_diffusion.toml")
DCGAN = str(cli.ROOT / "jobs" / "smoke" / "dcgan.toml")
EMOJI = Path(emoji.__file__).parent


def test_a_pretrained_text_encoder_travels_with_the_model(tmp_path: Path) -> None:
    """Folders are written relative to where the person stands; Ray's workers stand elsewhere."""
    write_text_model(tmp_path / "clip", "clip")
    (tmp_path / "shards").symlink_to(EMOJI, target_is_directory=True)
    keys = ["model.text_encoder=clip", "data.url=shards", "train.total_images=192", "train.sample_every_images=0"]
    words = [word for key in keys for word in ("--set", key)]
    done = cli.report("train", DIFFUSION, *words, cwd=tmp_path)
    assert done["finished"]
    (tmp_path / "clip").rename(tmp_path / "gone")
    cli.report("sample", done["model_alias"], "red heart", "-o", "drawn.png", cwd=tmp_path)


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head of its own with a token of its own: its address, and the environment that holds the token."""
    with StandingCluster(tmp_path / "cluster", num_cpus=2) as cluster:
        yield cluster.address, cluster.environment


def test_a_standing_cluster_runs_the_job_for_who_holds_its_token(
    tmp_path: Path, standing: tuple[str, dict[str, str]]
) -> None:
    address, environment = standing
    there = ["train", DCGAN, "--set", f"cluster.address={address}"]
    refused = cli.run(*there, cwd=tmp_path, env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64})
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "cluster.address" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = cli.report(*there, cwd=tmp_path, env=environment)
    assert done["finished"]
