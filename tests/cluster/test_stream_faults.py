"""The stream from a real S3 server behind a faulty network, by workers that are killed and come back as others.

Claimed: every sample once an epoch, and global batches byte for byte those of one worker on a quiet disk.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gen_dist.cli.app import main
from gen_dist.data.source import find_data, open_stream
from gen_dist.job.spec import DataSpec, JobSpec, MixSpec, S3Spec
from gen_dist.store import StoreError
from gen_dist.store.s3 import Retries
from tests.support.cli import ROOT
from tests.support.fault_proxy import FaultProxy, Plan, run_fault_proxy
from tests.support.gateway import Gateway, run_gateway
from tests.support.shards import FIELDS, write_shards
from tests.support.stream_ranks import BATCH, MICRO, Step, Workers, audited, job_of, program, uninterrupted

ROUGH = Plan(cut=0.2, reset=0.1, refuse=0.1, slow=0.1, slow_s=0.02, seed=5)
NUM_SAMPLES, STEPS = 150, 7  # 336 positions: 2 epochs and a part
# A few bytes of room: blocks are fetched again and again, and so meet many faults.
SMALL = {"cache_bytes": 0, "shuffle_bytes": 100_000, "read_threads": 3, "decode_threads": 1}


@pytest.fixture(scope="module", params=[True, False], ids=["etag", "without-etag"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway"), keep_etag=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two data sets on a disk: `indexed`, and `other` without an index."""
    path = tmp_path_factory.mktemp("shards")
    write_shards(path / "indexed", num_samples=NUM_SAMPLES, per_shard=10)
    write_shards(path / "other", num_samples=30, per_shard=10)
    assert main(["data", "index", str(path / "indexed")]) == 0
    return path


@pytest.fixture(scope="module")
def uploaded(gateway: Gateway, folder: Path) -> Gateway:
    for name in ("indexed", "other"):
        gateway.upload(folder / name, prefix=name)
    return gateway


@pytest.fixture
def proxy(uploaded: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.setattr(Retries, "wait_s", lambda self, attempt: 0.01)
    with run_fault_proxy(uploaded) as running:
        for name, value in uploaded.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def s3_of(proxy: FaultProxy) -> S3Spec:
    return S3Spec(endpoint_url=proxy.endpoint_url, region=proxy.gateway.region, addressing="path")


def remote(proxy: FaultProxy, prefix: str = "indexed", **data: object) -> DataSpec:
    url = f"s3://{proxy.gateway.bucket}/{prefix}"
    return DataSpec.model_validate({"url": url, "s3": s3_of(proxy), **SMALL, **data})


@pytest.fixture(scope="module")
def wanted(folder: Path) -> list[Step]:
    """The steps of one worker that reads the same shards from a disk."""
    return uninterrupted(job_of(DataSpec(url=str(folder / "indexed")), steps=STEPS), steps=STEPS)


def resumed(job: JobSpec, stretches: Sequence[tuple[int, int]], *, steps: int) -> list[Step]:
    """(world size, steps) of each stretch; each commits all but its last step, and dies in the middle of one more."""
    data = find_data(job.data)
    committed: list[Step] = []
    for world_size, count in (*stretches, (2, steps)):
        start = len(committed) * BATCH
        with Workers(job, data, world_size=world_size, start=start) as workers:
            taken = [workers.step() for _ in range(min(count, steps - len(committed)))]
            if len(committed) + len(taken) == steps:
                return committed + taken
            workers.begin_a_step()
        committed += taken[:-1] if len(taken) > 1 else taken
    return committed


@pytest.mark.parametrize(
    "stretches",
    [
        [(2, 3), (12, 1), (3, 2), (1, 1)],
        [(1, 2), (6, 3), (4, 2)],
        pytest.param([(3, 2), (12, 2), (4, 1), (2, 1)], marks=pytest.mark.long),
    ],
    ids=str,
)
def test_any_sequence_of_workers_gets_the_batches_of_one_through_a_rough_network(
    proxy: FaultProxy, wanted: list[Step], stretches: list[tuple[int, int]]
) -> None:
    proxy.plan = ROUGH
    job = job_of(remote(proxy), steps=STEPS)
    found = resumed(job, stretches, steps=STEPS)
    assert found == wanted
    proof = audited(job, found)
    assert proof.holds
    assert [epoch.used_once for epoch in proof.epochs] == [150, 150, 36]
    assert {"cut", "reset", "refuse", "slow"} <= proxy.counts.keys()


@pytest.mark.parametrize("gateway", [True], ids=["etag"], indirect=True)
def test_a_mixture_of_two_prefixes_without_an_index_too(proxy: FaultProxy, folder: Path) -> None:
    steps = 6
    local = DataSpec(url=str(folder / "indexed"), mix=[MixSpec(url=str(folder / "other"), weight=0.4)])
    away = f"s3://{proxy.gateway.bucket}/other"
    proxy.plan = ROUGH
    job = job_of(remote(proxy, mix=[MixSpec(url=away, weight=0.4)]), steps=steps)
    found = resumed(job, [(3, 2), (12, 2)], steps=steps)
    assert found == uninterrupted(job_of(local, steps=steps), steps=steps)
    proof = audited(job, found)
    assert proof.holds
    assert sum(epoch.used_once for epoch in proof.epochs) == steps * BATCH
    assert [epoch.num_samples for epoch in proof.epochs if epoch.source == 1 and epoch.whole] == [30, 30]


@pytest.mark.parametrize(
    ("gateway", "has_disk_cache"),
    [pytest.param(True, False, marks=pytest.mark.long), (False, True)],
    ids=["etag", "without-etag-disk-cache"],
    indirect=["gateway"],
)
def test_a_process_that_is_killed_while_it_reads_ahead_costs_no_sample(
    proxy: FaultProxy, wanted: list[Step], tmp_path: Path, has_disk_cache: bool
) -> None:
    proxy.plan = ROUGH
    data = remote(proxy, **({"disk_cache": str(tmp_path / "cache")} if has_disk_cache else {}))
    job = job_of(data, steps=STEPS)
    with subprocess.Popen(program(job, world_size=2, start=0), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = [Step(*json.loads(process.stdout.readline())) for _ in range(3)]
        process.kill()
    num_requests = len(proxy.requests)
    with Workers(job, find_data(job.data), world_size=3, start=len(found) * BATCH) as workers:
        found += [workers.step() for _ in range(STEPS - len(found))]
        num_hits = sum(stream.metrics()["num_cache_hits"] for stream in workers.streams)
    assert found == wanted
    assert audited(job, found).holds
    if has_disk_cache:
        assert num_hits > 0
        num_shard_reads = sum(".tar" in path and ".gdx" not in path for _, path, _ in proxy.requests[num_requests:])
        assert num_shard_reads < num_hits


def test_a_shard_that_is_replaced_by_one_of_its_size_stops_the_run(
    proxy: FaultProxy, gateway: Gateway, tmp_path: Path
) -> None:
    write_shards(tmp_path, num_samples=20, per_shard=4)
    gateway.upload(tmp_path, prefix="changing")
    data = remote(proxy, "changing", shuffle_bytes=1)
    with Workers(job_of(data, steps=40), find_data(data), world_size=2, start=0) as workers:
        workers.step()
        time.sleep(1.1)  # without ETags, versions are whole seconds
        for path in tmp_path.iterdir():
            path.write_bytes(path.read_bytes().replace(b"caption ", b"kaption "))
        gateway.upload(tmp_path, prefix="changing")
        says = r"/changing/train-0000\d\.tar: reading bytes \d+-\d+: .*changed after it was indexed; restart the run"
        with pytest.raises(StoreError, match=says) as caught:
            [workers.step() for _ in range(30)]
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", [Plan(refuse=1.0), Plan(cut=1.0), Plan(reset=1.0)], ids=["refuse", "cut", "reset"])
def test_a_store_that_stays_away_ends_in_one_line_with_object_range_and_attempts(
    proxy: FaultProxy, fault: Plan
) -> None:
    data = remote(proxy)
    with open_stream(data, fields=FIELDS, seed=0, data=find_data(data)) as stream:
        running = stream.prefetch(((position, MICRO) for position in range(0, 480, MICRO)), depth=1)
        next(running)

        def go_away(method: str, path: str) -> None:
            raise ConnectionResetError("as planned")  # where a cut lets bytes through, the next request gets none

        proxy.plan = fault
        proxy.before_request = go_away if fault.refuse < 1 else None
        says = r"s3://\S+/indexed/train-000\d\d\.tar(\.gdx)?: reading bytes \d+-\d*: .*\(\d+ attempts\); \w+"
        with pytest.raises(StoreError, match=says) as caught:
            for _ in running:
                pass
        error = caught.value
        assert error.num_attempts >= Retries().num_attempts
        assert f"({error.num_attempts} attempts)" in str(error)
        assert error.url.startswith("s3://")
        assert "\n" not in str(error)
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.url, again.num_attempts) == (str(error), error.url, error.num_attempts)
        assert list(running) == []
