"""The same job on a Ray cluster that stands already, and what a good run says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cli
from tests.support.mlflow_tables import put_tables
from tests.support.ray_cluster import StandingCluster

DCGAN = str(cli.ROOT / "jobs" / "smoke" / "dcgan.toml")


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head of its own with a token of its own: its address, and the environment that holds the token."""
    with StandingCluster(tmp_path / "cluster", num_cpus=2) as cluster:
        yield cluster.address, cluster.environment


@pytest.mark.long  # what it takes of a cluster is also seen of one that jobs are submitted to
def test_a_standing_cluster_runs_the_job_for_who_holds_its_token_and_the_log_fits_a_screen(
    tmp_path: Path, standing: tuple[str, dict[str, str]]
) -> None:
    address, environment = standing
    there = ["train", DCGAN, "--set", f"cluster.address={address}"]
    put_tables(tmp_path / "runs" / "mlflow.db")
    refused = cli.run(*there, cwd=tmp_path, env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64})
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "cluster.address" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = cli.run(*there, cwd=tmp_path, env=environment)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert len(log.splitlines()) <= 24, "more than a screen"
    assert "warning" not in log.lower()
    assert "models:/smoke-dcgan@latest" in done.stdout
    assert "mlflow ui" in done.stdout
