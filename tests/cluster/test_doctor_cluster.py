"""The doctor of a standing Ray cluster, from its machines: one that runs another version, no room, a wrong token."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gen_dist.cluster.checks.finding import Finding
from tests.support import cli
from tests.support.ray_cluster import StandingCluster

pytestmark = pytest.mark.long  # a cluster, and minutes

DDPM = str(cli.ROOT / "jobs" / "smoke" / "ddpm.toml")
PATIENT = {"RAY_agent_register_timeout_ms": "300000"}  # a raylet ends where its agent takes 15 s for its imports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingCluster]:
    """A head that takes no workers, and two machines; one of them finds another webdataset than all others."""
    folder = tmp_path_factory.mktemp("cluster")
    shim = folder / "shim"
    about = shim / "webdataset-9.9.9.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: webdataset\nVersion: 9.9.9\n")
    path = os.pathsep.join(filter(None, [str(shim), os.environ.get("PYTHONPATH", "")]))
    with StandingCluster(folder / "ray", num_cpus=0, env=PATIENT, dashboard=True) as found:
        found.add_node(num_cpus=1)
        found.add_node(num_cpus=1, env={"PYTHONPATH": path})
        yield found


def examined(folder: Path, *settings: str, env: dict[str, str]) -> tuple[int, dict[str, Finding], str]:
    """Exit code, findings by check, and what was said on standard error."""
    words = [word for setting in settings for word in ("--set", setting)]
    done = cli.run("doctor", DDPM, *words, "--json", cwd=folder, env=env)
    facts = json.loads(done.stdout)
    return done.returncode, {entry["check"]: Finding.from_json(entry) for entry in facts["checks"]}, done.stderr


def test_machines_are_looked_at_by_themselves(tmp_path: Path, cluster: StandingCluster) -> None:
    sizes = ("cluster.num_workers=4", "train.micro_batch_images=2")
    code, found, _ = examined(tmp_path, f"cluster.address={cluster.address}", *sizes, env=cluster.environment)
    assert code == 1
    assert {name for name, finding in found.items() if finding.state == "wrong"} == {"versions", "workers"}
    assert "webdataset 9.9.9 on " in found["versions"].text
    assert "install the same pins" in found["versions"].text
    assert len(found["versions"].measured["machines"]) == 1
    assert "4 workers of 1 CPU asked" in found["workers"].text
    assert "have room for 2, 2 now; add machines, or lower cluster.num_workers" in found["workers"].text
    assert "3 machine(s)" in found["cluster"].text
    assert "token authentication on" in found["cluster"].text
    assert found["clock"].measured["apart_s"] < 5
    assert "seen by all 2 machines" in found["run folder"].text
    assert "from each of 3 places" in found["checkpoints"].text
    assert found["network"].measured["members"] == 2
    assert found["network"].measured["bus_bytes_per_s"] > 0
    assert not (tmp_path / "runs").exists()


def test_from_the_laptop_the_doctor_is_a_job_on_the_head_that_sees_the_same(
    tmp_path: Path, cluster: StandingCluster
) -> None:
    keys = (f"run.folder={tmp_path / 'runs'}", "cluster.num_workers=2")
    words = [word for key in keys for word in ("--set", key)]
    laptop = {**cluster.environment, "AWS_SECRET_ACCESS_KEY": "canary0of0the0laptop"}
    done = cli.run("doctor", DDPM, "--cluster", cluster.dashboard_url, *words, "--json", cwd=tmp_path, env=laptop)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {entry["check"]: Finding.from_json(entry) for entry in json.loads(done.stdout)["checks"]}
    assert {name for name, finding in found.items() if finding.state == "wrong"} == {"versions"}
    assert "webdataset 9.9.9 on " in found["versions"].text
    assert "3 machine(s) at auto" in found["cluster"].text
    assert found["network"].measured["members"] == 2
    assert "each with image" in found["data"].text
    assert not (tmp_path / "runs").exists()

    nobody = cli.run("doctor", DDPM, "--cluster", "http://127.0.0.1:1", *words, cwd=tmp_path)
    assert nobody.returncode == 1
    (line, _) = nobody.stdout.splitlines()
    assert line.startswith("wrong  cluster        http://127.0.0.1:1: no answer (")


def test_a_cluster_without_a_gpu_for_a_job_that_wants_one(tmp_path: Path, cluster: StandingCluster) -> None:
    keys = (f"cluster.address={cluster.address}", "cluster.use_gpu=true", "cluster.num_workers=1")
    code, found, _ = examined(tmp_path, *keys, env=cluster.environment)
    assert code == 1
    assert "Ray knows of no GPU" in found["gpus"].text
    assert "1 workers of 1 CPU 1 GPU asked" in found["workers"].text
    assert found["data"].state == "ok"

    words = [word for key in (*keys, "run.max_wait_s=1") for word in ("--set", key)]
    run = cli.run("train", DDPM, *words, cwd=tmp_path, env=cluster.environment)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "the cluster has no machine with a GPU now" in run.stdout.replace("\n", " ")
    assert "no room for the workers" in run.stderr


def test_a_wrong_token_is_told_and_what_can_be_seen_from_here_as_well(tmp_path: Path, cluster: StandingCluster) -> None:
    wrong = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}
    keys = (f"cluster.address={cluster.address}", "cluster.num_workers=1")
    code, found, errors = examined(tmp_path, *keys, env=wrong)
    assert code == 1
    assert "it wants another token than the one here" in found["cluster"].text
    assert "RAY_AUTH_TOKEN_PATH" in found["cluster"].text
    assert found["data"].state == found["checkpoints"].state == "ok"
    assert "b" * 64 not in errors + str(found)


def test_a_cluster_that_anyone_may_use(tmp_path: Path) -> None:
    with StandingCluster(tmp_path / "ray", num_cpus=1, env={**PATIENT, "RAY_AUTH_MODE": "disabled"}) as open_to_all:
        keys = (f"cluster.address={open_to_all.address}", "cluster.num_workers=1")
        code, found, _ = examined(tmp_path, *keys, env={"RAY_AUTH_MODE": "disabled"})
    assert code == 1
    assert "token authentication off" in found["cluster"].text
    assert "RAY_AUTH_MODE=token" in found["cluster"].text


def test_nobody_at_the_address(tmp_path: Path) -> None:
    code, found, _ = examined(tmp_path, "cluster.address=127.0.0.1:1", "cluster.num_workers=1", env={})
    assert code == 1
    assert "Connection refused" in found["cluster"].text
    assert found["data"].state == "ok"
