"""Tracking that cannot hurt: whatever happens to MLflow, a run goes on, ends, and has all its points there, once."""

from __future__ import annotations

import errno
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from gen_dist.cli.app import main
from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.registry.flusher import Flusher
from gen_dist.registry.tracker import EXIT_S, LAST_S, Tracker
from gen_dist.registry.wal import WAL
from gen_dist.registry.wal_copies import upload_wal
from gen_dist.store.local import LocalStore
from gen_dist.train.report import Reporter
from tests.support import cli
from tests.support.mlflow_server import curve_of, run_mlflow, runs_of
from tests.support.mlflow_tables import put_tables
from tests.support.run_log import CrashingRun
from tests.support.troubled_http import Trouble, TroubledProxy, run_troubled_proxy

LEFT_S = 60.0  # a run ends within this, whatever its tracker does
SECRET = "hunter2"
KEY = "loss/a"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_mlflow(tmp_path_factory.mktemp("server")) as uri:
        yield uri


@pytest.fixture(scope="module")
def client(server: str) -> MlflowClient:
    return MlflowClient(server)


@pytest.fixture
def proxy(server: str) -> Iterator[TroubledProxy]:
    with run_troubled_proxy(server) as running:
        yield running


class Life:
    """A run as its driver and its leading worker live it, without the training."""

    def __init__(self, home: Path, name: str, uri: str) -> None:
        address = uri.replace("http://", f"http://ann:{SECRET}@")
        job = {"name": name, "recipe": "latent_diffusion", "data": {"url": "embedded://emoji"}}
        settings = {"train": {"total_images": 64}, "run": {"folder": str(home)}, "tracking": {"uri": address}}
        self.job = JobSpec.model_validate({**job, **settings})
        self.folder = Path(arithmetic.run_folder(self.job))
        self.folder.mkdir(parents=True)
        self.tracker = Tracker(self.job, run_folder=self.folder, facts={"data_digest": "d" * 64})
        self.tracker.start()
        self.tracker.begin()
        self.report = Reporter(self.folder / WAL, self.tracker.handle)
        self.report("start", images=0, attempt=1, workers=1, resumed_from="")
        self.said: list[tuple[int, float]] = []
        self.times_s: list[float] = []

    def learn(self, num_steps: int) -> None:
        """Steps with a point each, and a checkpoint at the end."""
        for _ in range(num_steps):
            images, value = 64 * (len(self.said) + 1), random.random()
            start_s = time.perf_counter()
            self.report("metrics", images=images, step=len(self.said), metrics={KEY: value, "loss/b": value})
            self.times_s.append(time.perf_counter() - start_s)
            self.said.append((images, value))
        self.report("checkpoint", images=self.said[-1][0], path="c")

    def end(self) -> tuple[bool, float]:
        """Whether all is in MLflow, and how long it took to leave."""
        self.report("end", images=self.said[-1][0])
        self.report.close()
        start_s = time.monotonic()
        recorded = self.tracker.wait(EXIT_S)
        recorded = self.tracker.finish("FINISHED", EXIT_S if recorded else LAST_S)
        return recorded, time.monotonic() - start_s

    def ready(self) -> None:
        """Importing MLflow takes seconds on a busy machine, and is no part of what is measured."""
        self.tracker._wait_until_ready()

    def check(self, client: MlflowClient) -> None:
        """Each point once, in the curve and in its attempt, and both ended well."""
        runs = runs_of(client, self.job.name)
        assert set(runs) == {"history-1", "attempt-000001"}
        for run in runs.values():
            for key in (KEY, "loss/b"):
                assert [point[:2] for point in curve_of(client, run, key)] == self.said
            assert run.info.status == "FINISHED"
        assert runs["history-1"].data.params["train.total_images"] == "64"

    def check_silence(self) -> None:
        """Nothing that is kept holds the password."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if SECRET.encode() in path.read_bytes()]
        assert SECRET not in str(self.tracker.trouble)


def send(folder: Path, uri: str) -> Flusher:
    """What `gen-dist track` does, in this process."""
    flusher = Flusher(folder, uri)
    while flusher.step():
        pass
    flusher.close()
    return flusher


@pytest.mark.parametrize("trouble", ["refuse", pytest.param("error", marks=pytest.mark.long), "slow"])
def test_a_server_in_trouble_from_the_start_costs_a_warning_and_nothing_else(
    tmp_path: Path, client: MlflowClient, server: str, proxy: TroubledProxy, trouble: Trouble
) -> None:
    proxy.trouble = trouble
    life = Life(tmp_path, f"down-{trouble}", proxy.uri)
    life.ready()
    life.learn(300)
    recorded, took_s = life.end()
    assert not recorded
    assert life.tracker.trouble or trouble == "slow"
    assert took_s < LEFT_S
    assert statistics.median(life.times_s) < 0.02
    assert sorted(life.times_s)[int(len(life.times_s) * 0.99)] < proxy.slow_s / 10, "a step waited for the server"
    assert life.tracker.wal_lag_rows >= 600
    life.check_silence()
    proxy.trouble = ""
    flusher = send(life.folder, proxy.uri)
    assert flusher.lag_rows() == 0
    life.check(client)


def test_a_server_that_comes_back_gets_what_was_said_meanwhile(
    tmp_path: Path, client: MlflowClient, proxy: TroubledProxy
) -> None:
    life = Life(tmp_path, "back", proxy.uri)
    life.ready()
    life.learn(50)
    assert life.tracker.wait(300.0)
    for trouble in ("lose", "error", "refuse"):
        proxy.trouble = trouble
        life.learn(50)
        assert not life.tracker.wait(20.0)
        assert life.tracker.failing
        assert life.tracker.wal_lag_rows > 0
    proxy.trouble = ""
    while not life.tracker.wait(20.0):
        time.sleep(0.2)
    life.learn(10)
    assert life.tracker.wait(300.0)
    recorded, took_s = life.end()
    assert took_s < LEFT_S
    if not recorded:  # on a machine so busy that the last word took longer
        send(life.folder, proxy.uri)
    life.check(client)
    life.check_silence()


def test_a_flusher_that_dies_is_started_again(tmp_path: Path, client: MlflowClient, server: str) -> None:
    life = Life(tmp_path, "dies", server)
    life.learn(20)
    assert life.tracker.wait(300.0)
    assert life.tracker._process is not None
    os.kill(life.tracker._process.pid, signal.SIGKILL)
    life.learn(20)
    deadline_s = time.monotonic() + 300.0
    while not life.tracker.wait(5.0):
        assert time.monotonic() < deadline_s
    if not life.end()[0]:
        send(life.folder, server)
    life.check(client)


@pytest.mark.long
def test_a_flusher_that_cannot_be_started_is_started_later(
    tmp_path: Path, client: MlflowClient, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refusals = subprocess.Popen, [OSError(errno.EFAULT, "Bad address"), OSError(errno.EAGAIN, "no process left")]

    def started(words: list[str], **options: Any) -> subprocess.Popen[str]:
        if "gen_dist.registry.flusher" in words:
            assert options["env"] is not os.environ, "which another thread may change while a program starts"
            if refusals:
                raise refusals.pop()
        return start(words, **options)

    monkeypatch.setattr("gen_dist.registry.tracker.subprocess.Popen", started)
    life = Life(tmp_path, "starts-late", server)
    life.learn(20)
    deadline_s = time.monotonic() + 300.0
    while not life.tracker.wait(5.0):
        assert time.monotonic() < deadline_s
    assert life.tracker.trouble == "the process that writes to MLflow did not start: no process left"
    assert life.end()[0]
    life.check(client)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import gen_dist.registry.mlflow_tracker
from gen_dist.registry import flusher as module
from gen_dist.registry.flusher import Flusher
random.seed(4)
folder, uri, num_kills = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
module.LINES_AT_ONCE = 100
total = Flusher(folder, uri).lag_rows()
for _ in range(num_kills):
    child = os.fork()
    if child == 0:
        flusher = Flusher(folder, uri)
        while flusher.step():
            pass
        os._exit(0)
    noted = folder / "mlflow.json"
    for portion in range(random.randint(0, 2)):  # between here and there in the next one
        seen = noted.stat().st_ino if noted.exists() else 0
        while (noted.stat().st_ino if noted.exists() else 0) == seen:
            time.sleep(0.01)
    time.sleep(random.uniform(0.0, 0.5))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was done before it was killed: give it more lines"
flusher = Flusher(folder, uri)
left = flusher.lag_rows()
while flusher.step():
    pass
assert 0 < left < total, (left, total)  # some of it was noted before the kills, and not all
"""


@pytest.mark.long
def test_a_flusher_killed_six_times_loses_and_repeats_nothing(
    tmp_path: Path, client: MlflowClient, server: str
) -> None:
    run = CrashingRun(tmp_path / "killed", seed=3, steps_between_checkpoints=4)
    run.describe()
    run.begin()
    run.live(1_500)
    run.save(images=run.images)
    run.end()
    assert len(run.curve) == 1_500
    call = [sys.executable, "-c", KILLED, str(run.folder), server, "6"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    runs = runs_of(client, "demo")
    for found in runs.values():
        for key in (KEY, "loss/b"):
            assert curve_of(client, found, key) == run.curve
    assert set(runs) == {"history-1", "attempt-000001"}


def dump(client: MlflowClient, name: str) -> dict[str, Any]:
    """All that MLflow holds of a job, without the names that each server gives."""
    found = {}
    runs = runs_of(client, name)
    names = {run.info.run_id: part for part, run in runs.items()}
    for part, run in runs.items():
        tags = {**run.data.tags}
        tags["mlflow.parentRunId"] = names.get(tags.get("mlflow.parentRunId", ""), "")
        curves = {key: curve_of(client, run, key) for key in run.data.metrics}
        times = (run.info.start_time, run.info.end_time, run.info.status, run.info.run_name)
        found[part] = (curves, run.data.params, tags, times)
    return found


def test_twenty_deaths_leave_each_step_once_and_an_empty_server_gets_the_same(
    tmp_path: Path, client: MlflowClient, server: str
) -> None:
    job = {"name": "deaths", "recipe": "r", "train": {"total_images": 1}, "tracking": {"experiment": "gen-dist"}}
    run = CrashingRun(tmp_path / "deaths", seed=11)
    driver = Reporter(run.folder / WAL, lambda event: None)
    driver("job", job=job, data_digest="e" * 64, versions={})
    driver.close()
    run.crash(20)
    run.end()
    send(run.folder, server)
    found = dump(client, "deaths")
    assert found["history-1"][0][KEY] == run.curve
    steps = [step for step, _, _ in run.curve]
    assert steps == sorted(set(steps))
    for number, said in enumerate(run.attempts, 1):
        curves, _, tags, (_, _, status, title) = found[f"attempt-{number:06d}"]
        assert [step for step, _, _ in curves.get(KEY, [])] == said
        assert tags["mlflow.parentRunId"] == "history-1"
        assert (title, status) == (f"attempt-{number:06d}", "FINISHED" if number == 21 else "FAILED")
    assert found["history-1"][2]["attempts"] == "21"
    empty = f"sqlite:///{put_tables(tmp_path / 'empty.db')}"
    send(run.folder, empty)
    assert dump(MlflowClient(empty), "deaths") == found
    (run.folder / "mlflow.json").unlink()  # what is there is found again without it
    send(run.folder, server)
    assert dump(client, "deaths") == found


FULL = """
import resource, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.faults.test_tracking import Life, send
life = Life(Path(sys.argv[1]), "full", sys.argv[2])
life.ready()
life.learn(40)
soft = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, soft[1]))  # as a disk with so much room
life.learn(300)
news = life.tracker.news()
assert any("room" in line for line in news) and len(news) == 1, news
assert not life.tracker.news()
resource.setrlimit(resource.RLIMIT_FSIZE, soft)
life.learn(10)
assert life.tracker.wait(300.0)
recorded, took_s = life.end()
assert took_s < 10.0, took_s
if not recorded:  # on a machine so busy that the last word took longer
    send(life.folder, sys.argv[2])
assert life.tracker.dropped_lines == 0
from mlflow import MlflowClient
life.check(MlflowClient(sys.argv[2]))
"""


def test_a_full_disk_is_a_warning_and_all_points_arrive_when_there_is_room(tmp_path: Path, server: str) -> None:
    call = [sys.executable, "-c", FULL, str(tmp_path), server, str(cli.ROOT)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_track_by_hand_completes_a_run_and_says_what_is_wrong(
    tmp_path: Path, client: MlflowClient, server: str, proxy: TroubledProxy
) -> None:
    run = CrashingRun(tmp_path / "byhand", seed=5)
    driver = Reporter(run.folder / WAL, lambda event: None)
    driver("job", job={"name": "byhand", "tracking": {"experiment": "gen-dist"}}, data_digest="", versions={})
    driver.close()
    run.crash(2)
    proxy.trouble = "refuse"
    away = cli.run("track", str(run.folder), "--tracking-uri", proxy.uri, cwd=tmp_path)
    assert away.returncode == 2
    assert "rows wait in" in away.stderr
    assert len(away.stderr.splitlines()) == 1
    done = cli.report("track", str(run.folder), "--tracking-uri", server, cwd=tmp_path)
    found = runs_of(client, "byhand")["history-1"]
    assert done["mlflow_run"] == found.info.run_id
    assert curve_of(client, found, KEY) == run.curve
    assert found.info.status == "KILLED"  # no driver said how it ended
    upload_wal(run.folder, LocalStore(tmp_path / "checkpoints" / "byhand"))
    copy = f"file://{tmp_path}/checkpoints/byhand"  # as of a bucket, where the folder is gone
    assert "--tracking-uri" in cli.run("track", copy, cwd=tmp_path).stderr
    again = cli.report("track", copy, "--tracking-uri", server, cwd=tmp_path)
    assert again["mlflow_run"] == done["mlflow_run"]
    assert curve_of(client, found, KEY) == run.curve
    elsewhere = f"sqlite:///{put_tables(tmp_path / 'elsewhere.db')}"
    assert main(["track", copy, "--tracking-uri", elsewhere]) == 0
    replayed = runs_of(MlflowClient(elsewhere), "byhand")["history-1"]
    assert replayed.data.tags["run_folder"] == copy, "not the folder that the copy was for a moment in"
    none = cli.run("track", "nothing", cwd=tmp_path)
    assert (none.returncode, len(none.stderr.splitlines())) == (2, 1)
    assert "no such folder" in none.stderr
