"""A run against the local stack, submitted by Ray's Jobs API: shards, checkpoints and artifacts in S3, MLflow with a
password on PostgreSQL, Ray with a token; and who may not come in.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import psutil
import psycopg2
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from ray.dashboard.modules.reporter import reporter_agent

from gen_dist.data import emoji
from tests.support.cli import ROOT
from tests.support.ray_cluster import RAY, descendants
from tests.support.stack import Stack, run_stack

pytestmark = pytest.mark.long  # a cluster, and minutes

END_S = 800.0
PATH_STYLE = Config(s3={"addressing_style": "path"})
README = ROOT / "infra" / "README.md"
METRIC = re.compile(r"\bray_\w+")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with run_stack() as running:
        yield running


def address(stack: Stack, name: str) -> tuple[str, int]:
    url = stack.environment[name]
    host, _, port = url.removeprefix("http://").rpartition(":")
    return host, int(port)


def s3(stack: Stack, secret_key: str = "") -> Any:
    key, secret = re.findall(r"= (\w+)", stack.secrets()["aws"])
    return boto3.client(
        "s3",
        endpoint_url=stack.environment["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=key,
        aws_secret_access_key=secret_key or secret,
        region_name="us-east-1",
        config=PATH_STYLE,
    )


def status_of(url: str, headers: Mapping[str, str] | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_second_up_starts_nothing_and_says_so(stack: Stack) -> None:
    before = stack.pids()
    done = stack.call("up")
    assert done.stdout == f"stack: already up in {stack.folder}\n"
    assert stack.pids() == before
    other = stack.call("up", "--workers", "3")
    assert other.returncode == 1
    assert "it runs; first infra/local/stack down" in other.stderr
    status = stack.call("status")
    assert status.returncode == 0
    assert [line.split()[0] for line in status.stdout.splitlines()] == [
        *("store", "database", "tracking", "head", "worker-1", "worker-2")
    ]


def test_secrets_are_in_files_of_their_own_and_nowhere_else(stack: Stack) -> None:
    for path in (stack.folder / "secrets").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    words = {word for text in stack.secrets().values() for word in re.findall(r"\w{20,}", text)} - {
        "aws_access_key_id",
        "aws_secret_access_key",
    }
    assert len(words) >= 7
    seen = {"env": stack.call("env").stdout, "status": stack.call("status").stdout}
    seen |= {str(path): path.read_text(errors="replace") for path in (stack.folder / "logs").iterdir()}
    seen["settings"] = (stack.folder / "settings").read_text()
    for part in stack.pids().values():
        seen |= {f"command line of {pid}": command_line(pid) for pid in [part, *descendants(part)]}
    assert [where for where, text in seen.items() if any(word in text for word in words)] == []


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""


def test_who_has_no_key_does_not_come_in(stack: Stack) -> None:
    mlflow = f"{stack.environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/search?max_results=1"
    assert status_of(mlflow) == 401
    jobs = f"{stack.environment['GENDIST_CLUSTER']}/api/jobs/"
    assert status_of(jobs) == 401
    assert status_of(jobs, {"Authorization": f"Bearer {'0' * 64}"}) == 403
    assert status_of(jobs, {"Authorization": f"Bearer {stack.secrets()['ray_token']}"}) == 200
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3(stack, "0" * 40).list_buckets()
    settings = dict(line.split("=", 1) for line in (stack.folder / "settings").read_text().splitlines())
    where: dict[str, Any] = {"host": "127.0.0.1", "port": settings["postgres_port"], "dbname": "mlflow"}
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(user="mlflow", password="0" * 40, **where)
    with pytest.raises(psycopg2.OperationalError, match=r"no pg_hba\.conf entry"):
        psycopg2.connect(user="postgres", password="0" * 40, **where)


def test_its_servers_listen_on_the_given_address_only(stack: Stack) -> None:
    others = [one.address for some in psutil.net_if_addrs().values() for one in some if one.family == socket.AF_INET]
    others = [one for one in others if not one.startswith("127.")]
    if not others:
        pytest.skip("this machine has no other address")
    settings = dict(line.split("=", 1) for line in (stack.folder / "settings").read_text().splitlines())
    for name in ("s3_port", "postgres_port", "mlflow_port", "dashboard_port"):
        socket.create_connection(("127.0.0.1", int(settings[name])), timeout=60).close()
        for other in others:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((other, int(settings[name])), timeout=60)


class Job:
    """A run on the stack's cluster, through Ray's own command line."""

    def __init__(self, stack: Stack, job_id: str) -> None:
        self._env = {**os.environ, **stack.environment, "PATH": f"{RAY.parent}:{os.environ['PATH']}"}
        self.id = job_id

    def submit(self, *, folder: Path, sets: Sequence[str]) -> None:
        """By the command of infra/README.md, in a folder of the test, with more settings."""
        (command,) = re.findall(r"^ray job submit (?:.*\\\n)*.*$", README.read_text(), flags=re.MULTILINE)
        command = command.replace("--submission-id first", f"--submission-id {self.id} --no-wait")
        command = command.replace("/tmp/gen-dist-runs", str(folder))
        self._run(["bash", "-ceu", " ".join([command, *(f"--set {one}" for one in sets)])])

    def status(self) -> str:
        listed = self._call("status", self.id).upper()  # "was stopped", but "RUNNING"
        return next(word for word in ("SUCCEEDED", "FAILED", "STOPPED", "RUNNING", "PENDING") if word in listed)

    def logs(self) -> str:
        return self._call("logs", self.id)

    def stop(self) -> None:
        self._call("stop", self.id)

    def wait_until(self, text: str) -> None:
        """It has said so."""
        give_up_s = time.monotonic() + END_S
        while True:
            is_over = self.status() not in ("PENDING", "RUNNING")  # before its last words
            if text in (said := self.logs()):
                return
            assert not is_over, said
            assert time.monotonic() < give_up_s, said
            time.sleep(1)

    def _call(self, verb: str, job_id: str) -> str:
        return self._run([str(RAY), "job", verb, job_id])

    def _run(self, words: Sequence[str]) -> str:
        done = subprocess.run(
            words, cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=END_S, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout


def scraped(stack: Stack) -> dict[str, str]:
    """The last line of each metric, from every node of the cluster, as Prometheus finds them."""
    found: dict[str, str] = {}
    for group in json.loads((stack.folder / "ray" / "head" / "prom_metrics_service_discovery.json").read_text()):
        for target in group["targets"]:
            try:
                text = urllib.request.urlopen(f"http://{target}/metrics", timeout=60).read().decode()
            except OSError:  # a node that is not there yet
                continue
            found |= {re.split(r"[{ ]", line, maxsplit=1)[0]: line for line in text.splitlines() if line[0] != "#"}
    return found


def test_a_run_is_submitted_watched_stopped_and_goes_on(stack: Stack, tmp_path: Path) -> None:
    store = s3(stack)
    for shard in sorted(Path(inspect.getfile(emoji)).parent.glob("*.tar")):
        store.upload_file(str(shard), "gen-dist", f"emoji/{shard.name}")
    data = ["data.url=s3://gen-dist/emoji", f"data.s3.endpoint_url={stack.environment['AWS_ENDPOINT_URL_S3']}"]

    first = Job(stack, "first")
    first.submit(folder=tmp_path, sets=[*data, "train.total_images=1000000", "train.checkpoint_every_images=100000"])
    first.wait_until("80/1,000,000 images")
    the_dashboard_finds_its_metrics(stack)
    first.stop()
    assert first.status() == "STOPPED", first.logs()
    listed = store.list_objects_v2(Bucket="gen-dist", Prefix="checkpoints/smoke-ddpm/images-", Delimiter="/")
    (saved,) = [found["Prefix"].rstrip("/").rsplit("/", 1)[1] for found in listed["CommonPrefixes"]]
    images = int(re.findall(r"images-(\d+)", saved)[0])

    second = Job(stack, "second")
    second.submit(folder=tmp_path, sets=[*data, f"train.total_images={images + 160}"])
    second.wait_until("done  ")
    assert saved in second.logs(), "it goes on from the checkpoint"
    assert "model " in second.logs(), "the model is registered in MLflow"
    assert store.list_objects_v2(Bucket="mlflow")["KeyCount"] > 0, "artifacts are in S3"


def the_dashboard_finds_its_metrics(stack: Stack) -> None:
    """Every metric that a panel asks for is exported; those of GPUs are in Ray's list, for there is none here."""
    dashboard = json.loads((ROOT / "infra/dashboards/grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
        for name in METRIC.findall(target["expr"])
    }
    later = {name for name in asked if "checkpoint" in name or "heldout" in name}  # not before the first of them
    of_gpus = {f"ray_{name}" for name in reporter_agent.METRICS_GAUGES if "gpu" in name or "gram" in name}
    give_up_s = time.monotonic() + END_S
    while missing := asked - later - of_gpus - (seen := scraped(stack)).keys():
        assert time.monotonic() < give_up_s, f"not exported: {sorted(missing)}"
        time.sleep(2)
    assert 'run="smoke-ddpm"' in seen["ray_gen_dist_images"]
    assert float(seen["ray_gen_dist_images"].rsplit(" ", 1)[1]) >= 80


@pytest.mark.long
def test_what_it_kept_is_there_again_after_down_and_up() -> None:
    with run_stack("--workers", "0") as stack:
        s3(stack).put_object(Bucket="gen-dist", Key="note", Body=b"kept")
        pids = [below for pid in stack.pids().values() for below in [pid, *descendants(pid)]]
        running = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
        secrets = stack.secrets()
        assert stack.call("down").returncode == 0
        _, left = psutil.wait_procs(running, timeout=60)  # the last were killed just now
        assert left == []
        assert stack.call("status").returncode == 1
        stack.up()
        assert stack.secrets() == secrets
        assert s3(stack).get_object(Bucket="gen-dist", Key="note")["Body"].read() == b"kept"
        assert stack.call("down", "--wipe").returncode == 0
        assert not stack.folder.exists()
