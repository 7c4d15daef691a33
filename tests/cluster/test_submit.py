"""From a laptop to a standing cluster and back: a real head with its dashboard and its token, which nobody prepared."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ray._raylet import AuthenticationTokenLoader, Config

from gen_dist.cluster import listing
from gen_dist.cluster.client import Jobs
from gen_dist.cluster.module import run_module
from gen_dist.cluster.package import pack
from tests.support import cli
from tests.support.gateway import run_gateway
from tests.support.ray_cluster import StandingCluster
from tests.support.tcp_relay import run_relay
from tests.support.troubled_http import run_troubled_proxy

pytestmark = pytest.mark.timeout(2400)  # several jobs, each of which starts processes on a busy machine
LONGEST_S = 800.0
CANARIES = {
    "AWS_ACCESS_KEY_ID": "CANARY0ACCESS0KEY",
    "AWS_SECRET_ACCESS_KEY": "canary0secret0key0of0the0laptop",
    "AWS_SESSION_TOKEN": "canary0session0token",
    "MLFLOW_TRACKING_URI": "https://ann:canary0token0in0an0address@mlflow.example.org",
    "MLFLOW_TRACKING_USERNAME": "canary0user",
    "MLFLOW_TRACKING_PASSWORD": "canary0tracking0password",
    "HF_TOKEN": "canary0token0of0the0hub",
}
CODED = base64.b64encode(b"canary0user:canary0tracking0password")
JOB = """
name = "there"
recipe = "dcgan"
[model]
image_px = 16
latent_width = 16
channels = 8
[data]
url = "embedded://emoji"
train = "train-*.tar"
[train]
total_images = 1_000_000
global_batch_images = 16
micro_batch_images = 16
log_every_images = 64
sample_every_images = 0
checkpoint_every_images = 0
[run]
folder = "RUNS"
"""


@dataclass(frozen=True)
class Laptop:
    """A folder with a job file, and an environment with the cluster's token and secrets of its owner's."""

    folder: Path
    cluster: StandingCluster
    env: dict[str, str]

    def run(self, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return cli.run(*words, cwd=self.folder, env={**self.env, **(env or {})})

    def report(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def refused(self, *words: str, env: dict[str, str] | None = None) -> str:
        """The one line that a command ends with."""
        done = self.run(*words, env=env)
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert "canary" not in line.lower()
        return line

    def row(self, job_id: str) -> dict[str, Any]:
        return next(row for row in self.report("jobs") if row["job_id"] == job_id)

    def until(self, job_id: str, text: str) -> None:
        """Wait until a job has said this."""
        jobs, give_up_s = Jobs(self.cluster.dashboard_url), time.monotonic() + LONGEST_S
        while text not in (log := jobs.log(job_id)):
            assert not jobs.get(job_id).status.is_terminal(), log
            assert time.monotonic() < give_up_s, log
            time.sleep(0.5)


@pytest.fixture(scope="module")
def sessions() -> Iterator[Path]:
    """All that the cluster writes, its runs included: a short path, for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="gd", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(sessions: Path) -> Iterator[StandingCluster]:
    """A head with two CPUs, as Ray starts it; this process has its token."""
    with (
        StandingCluster(sessions / "cluster", num_cpus=2, env={"RAY_TMPDIR": str(sessions)}, dashboard=True) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in found.environment.items():
            patch.setenv(name, value)
        _read_environment_anew()
        yield found
    _read_environment_anew()


def _read_environment_anew() -> None:
    """Ray reads it once in a process, and this one may have started Ray before."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@pytest.fixture(scope="module")
def laptop(cluster: StandingCluster, sessions: Path, tmp_path_factory: pytest.TempPathFactory) -> Laptop:
    folder = tmp_path_factory.mktemp("laptop")
    (folder / "job.toml").write_text(JOB.replace("RUNS", str(sessions / "runs")))
    state = {"XDG_STATE_HOME": str(folder / "state"), "GENDIST_CLUSTER": "", "RAY_ADDRESS": ""}
    return Laptop(folder, cluster, {**cluster.environment, **CANARIES, **state})


def test_a_run_is_sent_followed_stopped_and_resumed_and_no_secret_leaves_the_laptop(
    laptop: Laptop, sessions: Path
) -> None:
    url = laptop.cluster.dashboard_url
    sent = laptop.report("submit", "job.toml", "--cluster", url, "--env", "OMP_NUM_THREADS=1")
    assert sent["job"] == "there-1"
    assert sent["dashboard_page"] == f"{url}/#/jobs/there-1"
    assert sent["follow"].endswith("gen-dist logs -f there-1")
    line = laptop.refused("submit", "job.toml")  # to the same cluster, which is remembered
    assert "there: there-1 trains this run already (" in line
    assert "`gen-dist stop there-1` ends it" in line
    laptop.until("there-1", "images/s")
    row = laptop.row("there-1")
    assert row["state"] == "running"
    assert row["images"] >= 16
    stopped = laptop.report("stop", "there")
    assert (stopped["job"], stopped["state"]) == ("there-1", "stopped")
    (kept,) = laptop.report("checkpoints", str(sessions / "runs" / "there"))["checkpoints"]
    assert kept["images"] == stopped["images"] == laptop.row("there-1")["images"]
    said = laptop.run("logs", "there-1").stdout
    assert "the process that writes to MLflow" not in said
    assert "resume     gen-dist resume there-1" in said
    assert "there-1 is over: stopped; `gen-dist resume there-1` goes on" in laptop.refused("stop", "there-1")
    told = laptop.report("logs", "there-1")
    assert (told["job"], told["state"], told["log"]) == ("there-1", "stopped", said)
    again = laptop.report("resume", "there-1")
    assert again["job"] == "there-2"
    laptop.until("there-2", f"resumed    at {stopped['images']:,} images")
    assert "there-2 is running: it needs no resuming" in laptop.refused("resume", "there-2")
    assert "there: there-2 trains this run already" in laptop.refused("resume", "there-1")
    assert laptop.report("stop", "there-2")["images"] >= stopped["images"]
    _look_for_canaries(laptop, sessions)


def _wait_for(holds: Any) -> None:
    give_up_s = time.monotonic() + LONGEST_S
    while not holds():
        assert time.monotonic() < give_up_s
        time.sleep(0.5)


def _look_for_canaries(laptop: Laptop, sessions: Path) -> None:
    """In the code as it was unpacked, the driver's log, MLflow's parameters, and what the head tells of its jobs."""
    jobs = Jobs(laptop.cluster.dashboard_url)
    texts = {str(path): path.read_bytes() for path in sessions.rglob("*") if path.is_file() and not path.is_symlink()}
    for wanted in ("job-driver-there-1.log", "mlflow.db", "driver.py", "job.resolved.json", "000001.jsonl"):
        assert wanted in {Path(name).name for name in texts}
    for job in listing.trainings(jobs.list()):
        texts[f"what the head tells of {job.submission_id}"] = job.model_dump_json().encode()
        assert job.runtime_env["env_vars"]["OMP_NUM_THREADS"] == "1"
    wanted = [b"CANARY0ACCESS0KEY", b"canary0", CODED]
    assert [name for name, text in texts.items() if any(secret in text for secret in wanted)] == []


def test_a_log_is_followed_over_a_cut_cable_and_each_line_comes_once(laptop: Laptop) -> None:
    url, go = laptop.cluster.dashboard_url, laptop.folder / "go"
    first, rest = (f"for i in $(seq {numbers}); do echo line $i; done" for numbers in ("1 10", "11 20"))
    command = f"{first}; until [ -e {go} ]; do sleep 0.1; done; {rest}"
    Jobs(url).submit(command, job_id="lines-1", package=pack({}).data, env={}, metadata={})
    with run_relay(url) as relay:
        following = cli.Running("logs", "-f", "lines-1", "--cluster", relay.url, cwd=laptop.folder, env=laptop.env)
        output = laptop.folder / cli.OUTPUT
        _wait_for(lambda: "line 10\n" in output.read_text())
        relay.cut()
        before = relay.num_connections
        _wait_for(lambda: relay.num_connections > before)  # it has tried again, in vain
        relay.mend()
        go.touch()
        code, text = following.end()
    assert code == 0, text
    assert [line for line in text.splitlines() if line.startswith("line ")] == [f"line {i}" for i in range(1, 21)]


@pytest.mark.long
def test_ctrl_c_of_who_follows_leaves_the_job_alone(laptop: Laptop) -> None:
    url = laptop.cluster.dashboard_url
    jobs = Jobs(url)
    jobs.submit("echo begun; sleep 3000", job_id="sleeps-1", package=pack({}).data, env={}, metadata={})
    following = cli.Running("logs", "-f", "sleeps-1", "--cluster", url, cwd=laptop.folder, env=laptop.env)
    _wait_for(lambda: "begun" in (laptop.folder / cli.OUTPUT).read_text())
    following.signal(signal.SIGINT)
    code, text = following.end()
    assert code == 130, text
    assert "sleeps-1 goes on: " in text
    assert not jobs.get("sleeps-1").status.is_terminal()
    assert laptop.report("stop", "sleeps-1", "--cluster", url)["state"] == "stopped"


@pytest.mark.long  # a run more, on a cluster
def test_one_of_two_submits_wins_and_a_run_that_has_no_room_ends_as_soon_as_it_is_stopped(laptop: Laptop) -> None:
    large = ["--set", "name=large", "--set", "cluster.cpus_per_worker=64"]
    words = ["submit", "job.toml", "--cluster", laptop.cluster.dashboard_url, *large]
    with ThreadPoolExecutor() as two:  # at once: one of them wins
        ended = sorted(two.map(lambda _: laptop.run(*words), range(2)), key=lambda done: done.returncode)
    assert [done.returncode for done in ended] == [0, 2], ended
    assert "large-1 on http" in ended[0].stdout
    assert "1 worker(s) of 64 CPU asked, and the 1 machine(s) of the cluster have room for 0;" in ended[0].stdout
    assert "large: large-1 trains this run already" in ended[1].stderr
    laptop.until("large-1", "data  ")
    began_s = time.monotonic()
    stopped = laptop.report("stop", "large-1")
    assert (stopped["state"], stopped["images"]) == ("stopped", 0)
    assert time.monotonic() - began_s < 300.0  # it would have waited for room for half an hour


def test_a_job_that_fails_there_says_why_and_a_script_can_tell(laptop: Laptop) -> None:
    away = ["--set", "name=nowhere", "--set", "data.url=/mnt/nowhere/shards"]
    done = laptop.run("submit", "job.toml", "--cluster", laptop.cluster.dashboard_url, *away, "-f")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "job.resolved.json: data.url='/mnt/nowhere/shards': no such folder" in done.stdout
    assert laptop.row("nowhere-1")["state"] == "failed"
    assert laptop.run("logs", "-f", "nowhere-1").returncode == 1


def test_a_module_runs_on_the_cluster_with_the_code_of_this_machine(cluster: StandingCluster) -> None:
    pieces: list[str] = []
    jobs = Jobs(cluster.dashboard_url)
    file = JOB.replace("RUNS", "/runs").encode()
    done = run_module(
        jobs, "gen_dist.cli", ["check", "job.toml"], name="try", files={"job.toml": file}, embedded=["emoji"],
        watch=pieces.append,
    )  # fmt: skip
    assert done.succeeded, done.log
    assert "registered model   there" in done.log
    assert "".join(pieces) == done.log
    failed = run_module(jobs, "gen_dist.cli", ["check", "none.toml"], name="try")
    assert not failed.succeeded
    assert "none.toml: no such job file" in failed.log
    assert failed.job_id != done.job_id


def test_a_job_with_secrets_is_not_sent(laptop: Laptop) -> None:
    at = ["--cluster", laptop.cluster.dashboard_url]
    address = "tracking.uri=https://ann:canary0password@mlflow.example.org"
    assert "tracking.uri names a user or a password" in laptop.refused("submit", "job.toml", *at, "--set", address)
    assert "--env HF_TOKEN: a secret" in laptop.refused("submit", "job.toml", *at, "--env", "HF_TOKEN")
    prompt = f"train.prompts=['{CANARIES['HF_TOKEN']}']"
    line = laptop.refused("submit", "job.toml", *at, "--set", prompt, "--set", "name=leak")
    assert "job.resolved.json holds the value of HF_TOKEN: nothing was sent" in line
    assert not [row for row in laptop.report("jobs", *at) if row["run"] == "leak"]


@pytest.mark.long
def test_a_job_whose_bucket_or_shards_are_not_there_is_not_sent_and_what_a_run_survives_is_noted(
    laptop: Laptop, tmp_path: Path
) -> None:
    words = ["submit", "job.toml", "--cluster", laptop.cluster.dashboard_url, "--set", "name=astray"]
    with run_gateway(tmp_path) as gateway:
        for table in ("run", "data"):
            words += ["--set", f"{table}.s3.endpoint_url={gateway.endpoint_url}"]
            words += ["--set", f"{table}.s3.addressing=path"]
        bucket, keys = f"s3://{gateway.bucket}", {**gateway.environment, "AWS_SESSION_TOKEN": ""}
        line = laptop.refused(*words, "--set", "run.checkpoints=s3://no-such-bucket/x", env=keys)
        assert "NoSuchBucket" in line
        assert "create the bucket, or correct run.checkpoints; nothing was sent" in line
        line = laptop.refused(*words, "--set", f"data.url={bucket}/nowhere", env=keys)
        assert "no shard matches 'train-*.tar'; correct the pattern or the url" in line
    assert not [row for row in laptop.report("jobs", *words[2:4]) if row["run"] == "astray"]

    away = ["--set", "tracking.uri=http://127.0.0.1:1", "--set", "cluster.use_gpu=true"]
    notes = laptop.report(*words[:6], *away)["notes"]
    assert "have room for 0" in notes[0]
    assert "set cluster.use_gpu=false" in notes[0]
    assert "MLflow at http://127.0.0.1:1: no answer (" in notes[1]
    assert laptop.report("stop", "astray")["state"] == "stopped"


def test_a_cluster_of_another_ray_or_python_is_refused_before_anything_is_sent(laptop: Laptop, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import platform, ray\nray.__version__ = '2.58.1'\nplatform.python_version = lambda: '3.13.1'\n"
    )
    older = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(cli.ROOT)])}
    line = laptop.refused(
        "submit", "job.toml", "--cluster", laptop.cluster.dashboard_url, "--set", "seed=99", env=older
    )
    assert "the cluster has Ray 2.60" in line
    assert "and this machine Ray 2.58.1 and Python 3.13; nothing was sent" in line


def test_trouble_on_the_way_to_a_cluster_is_one_line(laptop: Laptop, tmp_path: Path) -> None:
    url = laptop.cluster.dashboard_url
    nobody = "http://127.0.0.1:1"
    assert f"{nobody}: no answer ([Errno 111] Connection refused)" in laptop.refused("jobs", "--cluster", nobody)
    with run_troubled_proxy(url) as proxy:
        proxy.trouble = "error"
        assert "answered with 500; the dashboard is not ready yet" in laptop.refused("jobs", "--cluster", proxy.uri)
    other = subprocess.Popen(
        [cli.PROGRAM.with_name("python"), "-m", "http.server", "--bind", "127.0.0.1", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout is not None
        port = other.stdout.readline().split(" port ")[1].split()[0]
        line = laptop.refused("jobs", "--cluster", f"http://127.0.0.1:{port}")
    finally:
        other.kill()
        other.wait()
    assert "somebody answers there, but not as the dashboard of a Ray head does" in line
    wrong = tmp_path / "token"
    wrong.write_text("b" * 64)
    line = laptop.refused("jobs", "--cluster", url, env={"RAY_AUTH_TOKEN_PATH": str(wrong)})
    assert "the cluster has another token than the one here; put the cluster's into RAY_AUTH_TOKEN" in line
    line = laptop.refused("jobs", "--cluster", url, env={"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")})
    assert "no token: RAY_AUTH_TOKEN_PATH is set but file cannot be opened" in line
    line = laptop.refused("jobs", "--cluster", url, env={"RAY_AUTH_MODE": "disabled"})
    assert "the cluster wants a token, and there is none here" in line
    for verb in ("logs", "stop", "resume"):
        assert "none-7: no such job at" in laptop.refused(verb, "none-7", "--cluster", url)
