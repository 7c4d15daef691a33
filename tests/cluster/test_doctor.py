"""The doctor with real parts, first all well, then each of them broken: what it says, and what it says beside it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from mlflow import MlflowClient

from gen_dist.cluster.checks.finding import Finding
from gen_dist.cluster.doctor import examine
from gen_dist.data.index import find_index
from gen_dist.job.load import load_job
from gen_dist.store import open_store
from tests.support import cli
from tests.support.fault_proxy import run_fault_proxy
from tests.support.gateway import Gateway, run_gateway
from tests.support.mlflow_server import run_mlflow
from tests.support.read_only_gateway import run_read_only_gateway
from tests.support.shards import write_shards
from tests.support.troubled_http import run_troubled_proxy

SMOKE = cli.ROOT / "jobs" / "smoke"
DCGAN = str(SMOKE / "dcgan.toml")
NOBODY = "http://127.0.0.1:1"
CANARIES = {"AWS_SESSION_TOKEN": "canary0session0token", "MLFLOW_TRACKING_PASSWORD": "canary0tracking0password"}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the gateways keep everything."""
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def gateway(disk: Path) -> Iterator[Gateway]:
    with run_gateway(disk) as found:
        yield found


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_mlflow(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture(autouse=True)
def _credentials(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)


def words_of(folder: Path, **keys: object) -> list[str]:
    """Overrides of a job file: one worker, nothing shared; `a__b` is the key a.b, None leaves the file's."""
    settings = {"run.folder": folder / "runs", "cluster.num_workers": 1, "data.heldout": "", "data.train": "*.tar"}
    settings |= {"model.classes": []}
    settings |= {key.replace("__", "."): value for key, value in keys.items()}
    given = {key: value for key, value in settings.items() if value is not None}
    return [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in given.items()]


def examined(folder: Path, *, job: str = DCGAN, **keys: object) -> dict[str, Finding]:
    """What the doctor says of a small job, by check, in this process."""
    spoken: list[Finding] = []
    found = examine(load_job(job, words_of(folder, **keys), looks_at_data=False), spoken.append)
    assert found == spoken
    assert all("\n" not in finding.line for finding in found)
    assert len({finding.check for finding in found}) == len(found)
    return {finding.check: finding for finding in found}


def in_bucket(gateway: Gateway, **keys: object) -> dict[str, object]:
    """Keys of a job whose checkpoints go to the bucket."""
    return {
        "run__checkpoints": f"s3://{gateway.bucket}/checkpoints",
        "run__s3__endpoint_url": gateway.endpoint_url,
        "run__s3__addressing": "path",
        **keys,
    }


def wrong(findings: dict[str, Finding]) -> set[str]:
    return {name for name, finding in findings.items() if finding.state == "wrong"}


def test_where_all_is_well_each_line_says_so_and_nothing_is_left(
    tmp_path: Path, gateway: Gateway, mlflow_uri: str
) -> None:
    write_shards(tmp_path / "shards", num_samples=8, per_shard=4)
    gateway.upload(tmp_path / "shards", prefix="data")
    keys = in_bucket(gateway, data__url=f"s3://{gateway.bucket}/data", data__s3__endpoint_url=gateway.endpoint_url)
    keys |= {"tracking__uri": mlflow_uri, "tracking__experiment": "doctored", "data__s3__addressing": "path"}
    words = [word for text in words_of(tmp_path, **keys, cluster__num_workers=2) for word in ("--set", text)]
    done = cli.run("doctor", DCGAN, *words, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    findings = {entry["check"]: entry for entry in facts["checks"]}
    assert facts["wrong"] == 0
    assert findings["checkpoints"]["state"] == "note", "JuiceFS ignores conditional writes, and a run must know"
    assert "8 samples" in findings["data"]["text"]
    assert findings["data"]["state"] == "note", "there is no index"
    assert abs(findings["clock"]["measured"]["store_ahead_s"]) < 60
    assert findings["network"]["measured"]["bus_bytes_per_s"] > 0
    assert findings["network"]["measured"]["members"] == 2
    kept = [entry["Key"] for entry in gateway.client().list_objects_v2(Bucket=gateway.bucket).get("Contents", [])]
    assert all(key.startswith("data/") for key in kept)
    assert not (tmp_path / "runs").exists()
    client = MlflowClient(mlflow_uri)
    experiment = client.get_experiment_by_name("doctored")
    assert experiment is not None
    assert client.search_runs([experiment.experiment_id]) == []


def test_a_wrong_key_and_a_stopped_mlflow_are_told_beside_what_is_well(
    tmp_path: Path, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary0secret0key")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", CANARIES["MLFLOW_TRACKING_PASSWORD"])
    uri = NOBODY.replace("://", "://ann:canary0in0an0address@")
    findings = examined(tmp_path, **in_bucket(gateway, tracking__uri=uri))
    assert wrong(findings) == {"checkpoints", "mlflow"}
    assert "SignatureDoesNotMatch" in findings["checkpoints"].text
    assert "correct AWS_SECRET_ACCESS_KEY" in findings["checkpoints"].text
    assert "track RUN" in findings["mlflow"].text
    assert "check tracking.uri" in findings["mlflow"].text
    told = json.dumps([finding.to_json() for finding in findings.values()])
    assert "canary" not in told
    assert "***@127.0.0.1" in told


def test_a_bucket_that_is_not_there_and_an_mlflow_that_refuses(
    tmp_path: Path, gateway: Gateway, mlflow_uri: str
) -> None:
    keys = in_bucket(gateway, run__checkpoints="s3://no-such-bucket/checkpoints")
    with run_troubled_proxy(mlflow_uri) as proxy:
        proxy.trouble = "deny"
        findings = examined(tmp_path, **keys, tracking__uri=proxy.uri)
    assert wrong(findings) == {"checkpoints", "mlflow"}
    assert "create the bucket, or correct run.checkpoints" in findings["checkpoints"].text
    assert "give its user the right" in findings["mlflow"].text
    assert findings["mlflow"].measured["status"] == 401


def test_a_bucket_that_may_only_be_read(tmp_path: Path, gateway: Gateway, disk: Path) -> None:
    write_shards(tmp_path / "shards", num_samples=2, per_shard=2)
    gateway.upload(tmp_path / "shards", prefix="read-only")
    with run_read_only_gateway(gateway, disk) as same:
        keys = in_bucket(same, data__url=f"s3://{same.bucket}/read-only", data__s3__endpoint_url=same.endpoint_url)
        findings = examined(tmp_path, **keys, data__s3__addressing="path")
    assert wrong(findings) == {"checkpoints"}
    assert "writing 72 bytes" in findings["checkpoints"].text
    assert "2 samples" in findings["data"].text


def test_an_endpoint_that_hangs_keeps_nothing_else(tmp_path: Path, gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:  # takes connections, and never says a word
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        keys = in_bucket(gateway, run__s3__endpoint_url=address, tracking__uri=address)
        findings = examined(tmp_path, **keys)
    assert wrong(findings) == {"checkpoints", "mlflow"}
    assert f"at {address}: no answer within 20 s; check that it answers there" in findings["checkpoints"].text
    assert findings["mlflow"].measured["status"] == 500
    assert findings["data"].state == "ok"


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "clip"
    keys = {"model__text_encoder": missing, "model__classes": None}
    findings = examined(tmp_path, job=str(SMOKE / "latent_diffusion.toml"), **keys)
    assert findings["models"].text.startswith(f"no folder {missing} (model.text_encoder); copy it there, or name ")
    assert wrong(findings) >= {"models"}


def test_shards_that_are_not_as_the_job_has_them(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    write_shards(folder, num_samples=4, per_shard=2)
    none = examined(tmp_path, data__url=folder, data__train="test-*.tar")
    assert wrong(none) == {"data"}
    assert "no shard matches 'test-*.tar'" in none["data"].text
    assert "train-00000.tar" in none["data"].text

    without = examined(tmp_path, data__url=folder, data__image="webp")
    assert wrong(without) == {"data"}
    assert "no member .webp for the batch field 'image'" in without["data"].text
    assert "set data.image" in without["data"].text

    gone = examined(tmp_path, data__url=tmp_path / "elsewhere")
    assert wrong(gone) == {"data", "shards"}
    assert "the folder does not exist" in gone["shards"].text


def test_an_index_that_is_not_current(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    write_shards(folder, num_samples=4, per_shard=2)
    indexed = cli.run("data", "index", str(folder), cwd=tmp_path)
    assert indexed.returncode == 0, indexed.stderr
    assert len(find_index(open_store(str(folder)), "*.tar")) == 4
    well = examined(tmp_path, data__url=folder)
    assert well["data"].state == "ok"
    assert "the index is current" in well["data"].text
    write_shards(folder, num_samples=6, per_shard=3)
    stale = examined(tmp_path, data__url=folder)
    assert wrong(stale) == {"data"}
    assert "changed after it was indexed" in stale["data"].text
    assert f"run `gen-dist data index {folder}`" in stale["data"].text


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has GPUs")
    findings = examined(tmp_path, cluster__use_gpu=True)
    assert wrong(findings) == {"gpus"}
    assert "torch" in findings["gpus"].text
    assert "cluster.use_gpu = false" in findings["gpus"].text


def in_a_mount(prepare: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The doctor of a job in `folder`, in a mount namespace where a shell has prepared what only it sees."""
    if not shutil.which("unshare") or os.geteuid() != 0:
        pytest.skip("needs a mount of its own, as root")
    allowed = subprocess.run(["unshare", "--mount", "sh", "-c", prepare], capture_output=True, text=True, check=False)
    if allowed.returncode:
        pytest.skip(f"no mount of its own: {allowed.stderr.strip()}")
    words = [word for text in words_of(folder) for word in ("--set", text)]
    command = ["unshare", "--mount", "sh", "-c", f'{prepare}; exec "$@"', "sh", str(cli.PROGRAM), "doctor", DCGAN]
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run(
        [*command, *words], env=environment, capture_output=True, text=True, timeout=cli.LONGEST_RUN_S, check=False
    )


def only_wrong(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("wrong")]
    return line


@pytest.mark.long
def test_shared_memory_that_is_full() -> None:
    mount = "mount -t tmpfs -o size=8m gen-dist-test /dev/shm && head -c 8M /dev/zero > /dev/shm/full"
    with TemporaryDirectory(dir="/var/tmp") as folder:  # pytest's own may lie in /dev/shm
        line = only_wrong(in_a_mount(mount, Path(folder)))
    assert line.split()[1:3] == ["shared", "memory"]
    assert "/dev/shm has 0 MiB free, and Ray's objects want 200 MiB; remove what lies there" in line
    assert "--shm-size" in line


@pytest.mark.long
def test_a_disk_without_room_for_the_checkpoints() -> None:
    with TemporaryDirectory(dir="/var/tmp") as folder:
        runs = Path(folder) / "runs"
        runs.mkdir()
        line = only_wrong(in_a_mount(f"mount -t tmpfs -o size=8m gen-dist-test {runs}", Path(folder)))
    assert line.split()[1] == "disk"
    assert f"8 MiB free, 1.0 GiB wanted ({runs}/smoke-dcgan, {runs}/smoke-dcgan/checkpoints)" in line
    assert "make room there, or name another run.folder or run.checkpoints" in line


def test_a_clock_that_is_not_that_of_the_store(tmp_path: Path, gateway: Gateway) -> None:
    with run_fault_proxy(gateway) as proxy:
        proxy.ahead_s = 1200.0
        findings = examined(tmp_path, **in_bucket(proxy.gateway))
    assert wrong(findings) == {"clock"}
    assert "it refuses what is signed 900 s off; let the system's time service run there" in findings["clock"].text
    assert findings["clock"].measured["store_ahead_s"] == pytest.approx(1200.0, abs=60.0)


@pytest.mark.long
def test_a_run_that_cannot_write_or_has_no_gpu_ends_before_ray_starts(
    tmp_path: Path, gateway: Gateway, disk: Path
) -> None:
    if not shutil.which("nvidia-smi"):
        words = [word for text in words_of(tmp_path, cluster__use_gpu=True) for word in ("--set", text)]
        refused = cli.run("train", DCGAN, *words, cwd=tmp_path)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        (line,) = refused.stderr.splitlines()
        assert "cluster.use_gpu=true: 1 worker(s) with a GPU each, and torch sees 0" in line
    with run_read_only_gateway(gateway, disk) as same:
        words = [word for text in words_of(tmp_path, **in_bucket(same)) for word in ("--set", text)]
        refused = cli.run("train", DCGAN, *words, cwd=tmp_path)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    (line,) = refused.stderr.splitlines()
    assert f"s3://{gateway.bucket}/checkpoints/smoke-dcgan/.probe-" in line
    assert not (tmp_path / "runs" / "smoke-dcgan" / "ray").exists()
