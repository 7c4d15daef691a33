"""Warm spares on a real Ray: a worker that takes the place of another one has imported everything before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gen_dist.job.load import load_job
from gen_dist.train import spares
from tests.support import cli
from tests.support.run_faults import events, settings, wait_for

DCGAN = cli.ROOT / "jobs" / "smoke" / "dcgan.toml"
LOG = Path("runs") / "smoke-dcgan" / "wal"
ON_RAY = """
import os, sys, threading, time
import ray
from gen_dist.job.load import load_job
from gen_dist.train import ray_settings, spares
job = load_job({job!r})
ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=ray_settings.LOCAL_STORE_BYTES,
         logging_level="ERROR", log_to_driver=False)

@ray.remote(num_cpus=1, runtime_env=spares.runtime_env(job))
class Worker:
    def begin(self):
        warm = "gen_dist.recipes.dcgan" in sys.modules and "deepspeed" in sys.modules
        spares.taken()
        return os.getpid(), warm, spares.waiting()

    def train(self):
        spares.AFTER_S = 0.0
        ready = threading.Event()
        kept = spares.Spares(1, lambda number: ready.set())
        assert ready.wait(120)
        again = spares.Spares(1, lambda number: None)  # one is there
        time.sleep(2.0)
        kept.close(), again.close()
        return spares.waiting(), [int(path.name) for path in spares._folder().iterdir()]

first = Worker.remote()
pid, warm, before = ray.get(first.begin.remote())
assert warm and not before, (warm, before)
number, waiting = ray.get(first.train.remote())
assert number == len(waiting) == 1 and pid not in waiting, waiting
ray.kill(first)
pid, warm, left = ray.get(Worker.remote().begin.remote())
assert [pid] == waiting and warm and not left, (pid, waiting, warm, left)
"""


@pytest.mark.long
def test_the_next_worker_is_a_process_that_has_imported_all(tmp_path: Path) -> None:
    """One spare for one worker, however often it is asked for, and the raylet hands it out."""
    program = [sys.executable, "-c", ON_RAY.format(job=str(DCGAN))]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_a_job_without_spares_has_its_workers_begin_with_nothing() -> None:
    assert spares.runtime_env(load_job(str(DCGAN), ["run.spares=false"])) == {}


def test_a_spare_that_is_gone_is_none_whatever_took_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "_folder", lambda: tmp_path)
    (tmp_path / str(os.getpid())).touch()  # this process lives, and left no note
    assert spares.waiting() == 0
    assert not list(tmp_path.iterdir())
    spares._leave_note()
    assert spares.waiting() == 1
    spares.taken()
    assert spares.waiting() == 0


def test_where_cuda_would_start_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spares, "_folder", lambda: tmp_path)
    monkeypatch.setenv(spares.RECIPE, "dcgan")
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0")
    monkeypatch.delenv(spares.NVML, raising=False)
    spares.warm()
    assert not list(tmp_path.iterdir())
    assert spares.NVML not in os.environ


@pytest.mark.gpu
def test_what_a_spare_imports_does_not_start_cuda() -> None:
    """Which devices a process may see is read once: a spare that had read it would never be told of its own."""
    code = """
import os, torch
from gen_dist.train import spares
os.environ[spares.RECIPE] = "gigagan"
spares._leave_note = lambda: None
spares.warm()
os.environ["CUDA_VISIBLE_DEVICES"] = ""
assert "gen_dist.recipes.gigagan" in __import__("sys").modules
assert torch.cuda.device_count() == 0 and not torch.cuda.is_available()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@pytest.mark.long
@pytest.mark.usefixtures("nothing_left")
def test_a_run_goes_on_with_its_spares_after_a_worker_died(tmp_path: Path) -> None:
    """And asks for new ones; none is left when the run has ended."""
    keys = {"train__total_images": 1_000_000, "tracking__uri": "http://127.0.0.1:1"}
    running = cli.Running("train", str(DCGAN), *settings(**keys), cwd=tmp_path)
    log = tmp_path / LOG
    wait_for(lambda: events(log, "spares"), "spares", running=running)
    assert events(log, "spares")[0]["processes"] == 2
    below = psutil.Process(running.process.pid).children(recursive=True)
    idle = {child.pid for child in below if "ray::IDLE" in " ".join(child.cmdline())}
    os.kill(running.workers()[1], signal.SIGKILL)
    wait_for(lambda: len(events(log, "start")) == 2, "second group", running=running)
    assert set(running.workers()) <= idle
    wait_for(lambda: len(events(log, "spares")) == 2, "new spares", running=running)
    assert events(log, "spares")[1]["processes"] == 2
    running.signal(signal.SIGTERM)
    code, output = running.end()
    assert code == 128 + signal.SIGTERM, output
