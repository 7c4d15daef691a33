"""infra/slurm/ with the real `ray symmetric-run`: how its job ends, and what becomes of one whose time is up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from gen_dist.registry import wal
from tests.support import slurm
from tests.support.cli import ROOT
from tests.support.slurm import Slurm

pytestmark = pytest.mark.long  # a cluster, and minutes

END_S = 800.0
JOB = "jobs/smoke/ddpm.toml"


@pytest.fixture
def here(tmp_path: Path) -> Slurm:
    if why := slurm.missing():
        pytest.skip(why)
    root = tmp_path / "repository"
    root.mkdir()
    for name in ("infra", "jobs"):
        (root / name).symlink_to(ROOT / name)
    return Slurm(tmp_path / "slurm", submitted_from=root)


def test_a_job_ends_as_its_run_does(here: Slurm, tmp_path: Path) -> None:
    job = here.sbatch("jobs/nothing.toml")
    assert job.wait(END_S) == 2, here.log.read_text()
    assert "jobs/nothing.toml: no such job file" in here.log.read_text()
    assert not list((tmp_path / "repository/runs").glob("slurm-*")), "its token stays behind"


@pytest.mark.long
def test_a_job_whose_time_is_up_saves_and_is_queued_again_and_goes_on(here: Slurm, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = [JOB, "--set", f"run.folder={runs}", "--set", "cluster.cpus_per_worker=0.5"]
    short = ["--set", "train.checkpoint_every_images=0"]
    first = here.sbatch(*words, *short, "--set", "train.total_images=100000")
    give_up_s = time.monotonic() + END_S
    while "metrics" not in {event["kind"] for event in wal.read_events(runs / "smoke-ddpm" / wal.WAL)}:
        assert first.poll() is None, here.log.read_text()
        assert time.monotonic() < give_up_s, here.log.read_text()
        time.sleep(0.5)
    here.signal.write_text("USR1")
    assert first.wait(END_S) == 128 + 15, here.log.read_text()
    assert here.scontrol_log.read_text() == "requeue 7\n"
    (saved,) = [event for event in wal.read_events(runs / "smoke-ddpm" / wal.WAL) if event["kind"] == "checkpoint"]

    second = here.sbatch(*words, *short, "--set", f"train.total_images={saved['images'] + 160}")
    assert second.wait(END_S) == 0, here.log.read_text()
    starts = [event for event in wal.read_events(runs / "smoke-ddpm" / wal.WAL) if event["kind"] == "start"]
    assert starts[-1]["images"] == saved["images"]
    assert here.scontrol_log.read_text() == "requeue 7\n", "a run that is done is queued again"
