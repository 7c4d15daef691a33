"""Training data from a real S3 server: the same batches as from a folder, and one line when it cannot be had."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch

from gen_dist.cli.app import main
from gen_dist.data.errors import DataError
from gen_dist.data.source import data_digest, open_stream
from gen_dist.job.spec import DataSpec, S3Spec
from gen_dist.registry.find import find_model
from gen_dist.store import StoreError, open_store
from tests.support import cli
from tests.support.fault_proxy import run_fault_proxy
from tests.support.gateway import Gateway, run_gateway
from tests.support.mlflow_tables import put_tables
from tests.support.shards import FIELDS, noise, png, write_shards


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, gateway: Gateway) -> Path:
    path = tmp_path_factory.mktemp("shards")
    write_shards(path, num_samples=60, per_shard=25)
    gateway.upload(path, prefix="sets/small")
    return path


@pytest.fixture(autouse=True)
def _credentials(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)


def spec_of(gateway: Gateway, *, bucket: str = "", prefix: str = "sets/small", cache_bytes: int = 1 << 20) -> DataSpec:
    s3 = S3Spec(endpoint_url=gateway.endpoint_url, region=gateway.region, addressing="path")
    return DataSpec(url=f"s3://{bucket or gateway.bucket}/{prefix}", s3=s3, cache_bytes=cache_bytes)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_a_bucket_and_a_folder_give_the_same_bytes(gateway: Gateway, folder: Path, cache_bytes: int) -> None:
    local = DataSpec(url=str(folder))
    remote = spec_of(gateway, cache_bytes=cache_bytes)
    assert data_digest(local) == data_digest(remote)
    with (
        open_stream(local, pattern="*.tar", fields=FIELDS, seed=5) as here,
        open_stream(remote, pattern="*.tar", fields=FIELDS, seed=5) as there,
    ):
        positions = [(position, 16) for position in range(0, 128, 16)]
        for (_, one), (_, other) in zip(here.prefetch(positions), there.prefetch(positions), strict=True):
            for name in ("image", "label"):
                assert torch.equal(one[name], other[name])
            assert one["caption"] == other["caption"]


def test_a_bucket_and_a_folder_list_and_read_alike(gateway: Gateway, folder: Path) -> None:
    here, there = open_store(str(folder)), open_store(spec_of(gateway).url, spec_of(gateway).s3)
    for pattern in ("*.tar", "train-0000[12].tar", "nothing-*"):
        listed = [(info.name, info.size_bytes) for info in there.list(pattern)]
        assert listed == [(info.name, info.size_bytes) for info in here.list(pattern)]
    info = there.list("*.tar")[0]
    size = info.size_bytes
    assert info.version
    for start, end in [(0, None), (0, 10), (100, 5000), (size - 3, size + 9), (size, size + 9), (7, 7)]:
        assert there.read(info.name, start, end, version=info.version) == here.read(info.name, start, end)


def test_a_shard_that_is_replaced_during_a_run_stops_it(gateway: Gateway, tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=4, per_shard=4)
    gateway.upload(tmp_path, prefix="sets/changing")
    with open_stream(
        spec_of(gateway, prefix="sets/changing", cache_bytes=0), pattern="*.tar", fields=FIELDS, seed=0
    ) as stream:
        stream.batch(0, 4)
        write_shards(tmp_path, num_samples=3, per_shard=4)
        gateway.upload(tmp_path, prefix="sets/changing")
        with pytest.raises(
            StoreError, match=r"train-00000\.tar: reading bytes .*the object changed after it was indexed"
        ):
            stream.batch(0, 4)


def test_a_bucket_that_does_not_exist_is_one_line(gateway: Gateway) -> None:
    with pytest.raises(StoreError, match=r"NoSuchBucket: .*; create the bucket, or correct data\.url") as caught:
        data_digest(spec_of(gateway, bucket="no-such-bucket"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "remedy"),
    [("AWS_ACCESS_KEY_ID", "correct AWS_ACCESS_KEY_ID"), ("AWS_SECRET_ACCESS_KEY", "correct AWS_SECRET_ACCESS_KEY")],
)
def test_wrong_credentials_are_one_line(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, variable: str, remedy: str
) -> None:
    monkeypatch.setenv(variable, "wrong-value")
    with pytest.raises(StoreError, match=rf"listing \*\.tar: .*; {remedy}") as caught:
        data_digest(spec_of(gateway))
    assert "\n" not in str(caught.value)


def test_a_prefix_without_shards_says_what_is_there(gateway: Gateway, folder: Path) -> None:
    with pytest.raises(DataError, match=r"sets/small: no shard matches 'val-\*'; .*holds train-00000\.tar"):
        data_digest(spec_of(gateway).model_copy(update={"train": "val-*"}))


def test_a_shard_that_was_cut_is_refused_from_a_bucket_too(gateway: Gateway, tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=4, per_shard=4)
    path = tmp_path / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    gateway.upload(tmp_path, prefix="sets/cut")
    with pytest.raises(DataError, match=r"sets/cut/train-00000\.tar: the shard is truncated"):
        data_digest(spec_of(gateway, prefix="sets/cut"))


ROUGH_JOB = """
name = "rough"
recipe = "dcgan"

[data]
url = "s3://{bucket}/sets/rough"
max_bad_share = 0.05
cache_bytes = 0
shuffle_bytes = 60_000
s3 = {{ endpoint_url = "{endpoint_url}", region = "{region}", addressing = "path" }}

[model]
image_px = 16
latent_width = 16
channels = 8
r1_every_steps = 4

[cluster]
num_workers = [1, 2]

[train]
total_images = 100_000
global_batch_images = 16
micro_batch_images = 4
log_every_images = 16
sample_every_images = 0
checkpoint_every_images = 48
"""


@pytest.mark.long  # the same faults without a run's processes: test_stream_faults.py
def test_a_run_on_a_rough_network_that_shrinks_is_proved_and_names_what_it_could_not_read(
    gateway: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path / "shards", num_samples=60, per_shard=10)
    broken, image = tmp_path / "shards" / "train-00003.tar", png(noise(33))
    broken.write_bytes(broken.read_bytes().replace(image, bytes(len(image))))
    gateway.upload(tmp_path / "shards", prefix="sets/rough")
    with run_fault_proxy(gateway, cut=0.2, refuse=0.05) as proxy:
        facts = {"bucket": gateway.bucket, "endpoint_url": proxy.endpoint_url, "region": gateway.region}
        (tmp_path / "job.toml").write_text(ROUGH_JOB.format(**facts))
        put_tables(tmp_path / "runs" / "mlflow.db")
        run = tmp_path / "runs" / "rough"
        running = cli.Running("train", "job.toml", cwd=tmp_path)
        running.wait_for_images(run / "wal", 80)
        running.signal(signal.SIGINT)
        code, output = running.end()
        assert code == 128 + signal.SIGINT, output
        assert "gen-dist train job.toml" in output, "what to type to go on"
        stopped_images = find_model(str(run)).facts.images
        keys = [f"train.total_images={stopped_images + 160}", "cluster.num_workers=1"]
        done = cli.report("train", "job.toml", *[word for key in keys for word in ("--set", key)], cwd=tmp_path)
        capsys.readouterr()
        assert main(["data", "audit", str(run), "--json"]) == 0
        proof = json.loads(capsys.readouterr().out)
        assert proxy.counts["cut"] > 0
    starts = [event for event in cli.read_events(run / "wal") if event["kind"] == "start"]
    assert [(event["workers"], event["images"]) for event in starts] == [(2, 0), (1, stopped_images)]
    images = stopped_images + 160
    assert (done["images"], proof["images"], proof["holds"]) == (images, images, True)
    assert [epoch["used_once"] for epoch in proof["epochs"]] == [60] * (images // 60) + [images % 60] * (
        images % 60 > 0
    )
    bad = find_model(str(tmp_path / done["checkpoint"])).facts.stream["bad"]
    assert [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()] == bad
    assert {entry["key"] for entry in bad} == {"000033"}
    assert images // 60 <= len(bad) == sum(epoch["unreadable"] for epoch in proof["epochs"]) <= images // 60 + 1
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    assert client.get_run(done["mlflow_run"]).data.metrics["data/bad_samples"] == 1, "one, however often"
    for path in run.rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 20:
            assert gateway.secret_key.encode() not in path.read_bytes(), f"the secret key is in {path}"
    assert "bad_samples.jsonl" in {item.path for item in client.list_artifacts(done["mlflow_run"])}
