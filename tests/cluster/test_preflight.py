"""What `submit` and `train` look at by themselves, with real parts, each of them broken: what ends a run or is told."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gen_dist.cluster import preflight
from gen_dist.cluster.checks.room import Node
from gen_dist.cluster.errors import JobsError
from gen_dist.cluster.preflight import room_for
from gen_dist.job.load import load_job
from gen_dist.job.spec import JobSpec
from gen_dist.store import StoreError
from gen_dist.train import footprint
from gen_dist.train.preflight import before_launch, make_folder
from tests.support import cli
from tests.support.gateway import Gateway, run_gateway
from tests.support.shards import write_shards
from tests.support.troubled_http import run_troubled_proxy

JOB = str(cli.ROOT / "jobs" / "smoke" / "dcgan.toml")
NOBODY = "http://127.0.0.1:1"
ELSEWHERE = "The cluster has its own keys and network"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With shards below `data/`."""
    shards = tmp_path_factory.mktemp("shards")
    write_shards(shards, num_samples=4, per_shard=2)
    with run_gateway(tmp_path_factory.mktemp("gateway")) as found:
        found.upload(shards, prefix="data")
        yield found


@pytest.fixture(autouse=True)
def _credentials(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)


def look_from_here(job: JobSpec) -> list[str]:
    """With time: a starved machine takes most of the usual limit for the imports alone."""
    return preflight.look_from_here(job, limit_s=120.0)


def keys_of(gateway: Gateway, **more: object) -> list[str]:
    """Overrides of a job with all its places in the bucket; `a__b` is the key a.b."""
    bucket = f"s3://{gateway.bucket}"
    keys: dict[str, object] = {"data__url": f"{bucket}/data", "data__train": "*.tar", "data__heldout": ""}
    keys |= {"run__checkpoints": f"{bucket}/runs", "cluster__num_workers": 1, "run__folder": "/mnt/shared/runs"}
    keys |= {"model__classes": []}
    for part in ("data", "run", "registry"):
        keys |= {f"{part}__s3__endpoint_url": gateway.endpoint_url, f"{part}__s3__addressing": "path"}
    return [f"{key.replace('__', '.')}={value}" for key, value in {**keys, **more}.items()]


def sent(gateway: Gateway, **more: object) -> JobSpec:
    """As `submit` loads it."""
    return load_job(JOB, keys_of(gateway, **more), away=True)


def trained(gateway: Gateway, folder: Path, **more: object) -> tuple[int, str, str]:
    """Exit code, output and errors of `train`."""
    sets = [word for key in keys_of(gateway, run__folder=folder / "runs", **more) for word in ("--set", key)]
    done = cli.run("train", JOB, *sets, cwd=folder)
    return done.returncode, done.stdout, done.stderr


def left_in(gateway: Gateway) -> list[str]:
    listed = gateway.client().list_objects_v2(Bucket=gateway.bucket).get("Contents", [])
    return [entry["Key"] for entry in listed if not entry["Key"].startswith("data/")]


def test_where_all_is_well_nothing_is_said_and_nothing_is_left(gateway: Gateway) -> None:
    assert look_from_here(sent(gateway)) == []
    assert left_in(gateway) == []


def test_a_missing_bucket_stops_a_job_before_it_is_sent(gateway: Gateway) -> None:
    with pytest.raises(JobsError, match=r"NoSuchBucket.*create the bucket, or correct run\.checkpoints; nothing was"):
        look_from_here(sent(gateway, run__checkpoints="s3://no-such-bucket/runs"))
    with pytest.raises(JobsError, match=r"NoSuchBucket.*create the bucket, or correct data\.url; nothing was sent"):
        look_from_here(sent(gateway, data__url="s3://no-such-bucket/data"))
    (told,) = look_from_here(sent(gateway, registry__store="s3://no-such-bucket/models"))
    assert "create the bucket, or correct registry.store" in told, "the run itself would go on"


def test_shards_that_are_not_there_stop_a_job_before_it_is_sent(gateway: Gateway) -> None:
    with pytest.raises(JobsError) as caught:
        look_from_here(sent(gateway, data__train="test-*.tar"))
    (line,) = caught.value.lines
    assert "/data: no shard matches 'test-*.tar'; correct the pattern or the url (the top of it holds " in line
    assert "train-00000.tar" in line
    with pytest.raises(JobsError, match=r"no shard matches 'held-\*\.tar'"):
        look_from_here(sent(gateway, data__heldout="held-*.tar"))


def test_a_wrong_key_of_this_machine_is_a_note_without_the_key(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary0secret0key")
    told = look_from_here(sent(gateway))
    assert [note.partition(",")[0] for note in told] == ["shards", "checkpoints"]
    for note in told:
        assert "SignatureDoesNotMatch" in note
        assert "correct AWS_SECRET_ACCESS_KEY" in note
        assert ELSEWHERE in note
        assert "canary" not in note


def test_a_store_that_only_this_machine_may_not_know_is_a_note(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is that of the environment, and the cluster has one of its own."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.endpoint_url)
    (told,) = look_from_here(sent(gateway, run__checkpoints="s3://no-such-bucket/runs", run__s3__endpoint_url=""))
    assert "NoSuchBucket" in told
    assert ELSEWHERE in told


def test_what_hangs_or_is_away_keeps_nobody_for_long(gateway: Gateway) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:  # takes connections, and never says a word
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        places = {"run__s3__endpoint_url": address, "tracking__uri": NOBODY, "data__url": "embedded://emoji"}
        job = sent(gateway, **places)
        began_s = time.monotonic()
        told = preflight.look_from_here(job, limit_s=5.0)
    assert time.monotonic() - began_s < 30.0, "a read of a store may take a minute, and is tried again"
    assert [note.partition(",")[0] for note in told] == ["checkpoints", "mlflow"]
    assert f"at {address}: no answer in time" in told[0]
    assert f"MLflow at {NOBODY}: no answer (" in told[1]
    assert "Connection refused" in told[1]


def test_an_mlflow_in_trouble_is_a_note_without_its_password(gateway: Gateway) -> None:
    with run_troubled_proxy(gateway.endpoint_url) as proxy:
        proxy.trouble = "error"
        uri = proxy.uri.replace("://", "://ann:canary0password@")
        (told,) = look_from_here(sent(gateway, tracking__uri=uri))
        assert f"***@{proxy.uri.removeprefix('http://')}: it answers with 500; check tracking.uri" in told
        proxy.trouble = "deny"  # one that wants to know who asks is there
        assert look_from_here(sent(gateway, tracking__uri=uri)) == []
    assert "canary" not in told


def test_room_for_workers_is_counted_machine_by_machine(gateway: Gateway) -> None:
    nodes = [Node("a", "1", {"CPU": 3.0}, {}), Node("b", "2", {"CPU": 3.0, "GPU": 1.0}, {})]
    halves = {"cluster__cpus_per_worker": 2, "cluster__num_workers": 2}
    assert room_for(sent(gateway, **halves), nodes) == ""
    told = room_for(sent(gateway, cluster__use_gpu="true", **halves), nodes)
    assert "2 worker(s) of 2 CPU and 1 GPU asked, and the 2 machine(s) of the cluster have room for 1;" in told
    assert "use_gpu=false" not in told
    none = room_for(sent(gateway, cluster__use_gpu="true"), nodes[:1])
    assert "have room for 0" in none
    assert "or set cluster.use_gpu=false" in none


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        pytest.param(
            {"run__checkpoints": "s3://no-such-bucket/runs"},
            ["NoSuchBucket", "correct run.checkpoints"],
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"data__url": "s3://no-such-bucket/data"}, ["NoSuchBucket", "correct data.url"], marks=pytest.mark.long
        ),
        pytest.param(
            {"data__train": "test-*.tar"},
            ["no shard matches 'test-*.tar'", "correct the pattern"],
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_run_whose_places_are_not_there_ends_before_ray_starts(
    gateway: Gateway, tmp_path: Path, keys: dict[str, object], parts: list[str]
) -> None:
    code, output, errors = trained(gateway, tmp_path, **keys)
    assert code == 2, output + errors
    (line,) = errors.splitlines()
    assert [part for part in parts if part not in line] == []
    assert not (tmp_path / "runs" / "smoke-dcgan" / "ray").exists()


def test_a_run_with_a_wrong_key_ends_before_ray_starts(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary0secret0key")
    code, output, errors = trained(gateway, tmp_path, data__url="embedded://emoji")
    assert code == 2, output + errors
    (line,) = errors.splitlines()
    assert "SignatureDoesNotMatch" in line
    assert "correct AWS_SECRET_ACCESS_KEY" in line
    assert "canary" not in output + errors
    assert not (tmp_path / "runs" / "smoke-dcgan" / "ray").exists()


def test_a_run_without_mlflow_and_without_a_place_for_models_is_warned_and_not_ended(
    gateway: Gateway, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.write_text("no folder")
    keys = {"tracking__uri": NOBODY, "registry__store": closed, "run__folder": tmp_path}
    registry, mlflow = before_launch(load_job(JOB, keys_of(gateway, **keys)))
    assert str(closed) in registry
    assert f"MLflow at {NOBODY}: no answer" in mlflow
    assert "check tracking.uri and that the server runs" in mlflow


def test_a_run_folder_that_cannot_be_written_ends_a_run_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match=r"run\.folder: .*/file/demo: Not a directory; give this user the right"):
        make_folder(tmp_path / "file" / "demo")
    make_folder(tmp_path / "new" / "demo")
    assert list((tmp_path / "new" / "demo").iterdir()) == []


def test_a_disk_without_room_is_told_with_what_wants_it(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "BYTES_PER_PARAMETER", 1 << 40)
    (told,) = before_launch(load_job(JOB, keys_of(gateway, run__folder=tmp_path, run__checkpoints="")))
    assert told.startswith("disk: ")
    assert f"wanted ({tmp_path}/smoke-dcgan, {tmp_path}/smoke-dcgan/checkpoints)" in told
    assert "make room there, or name another run.folder or run.checkpoints" in told
