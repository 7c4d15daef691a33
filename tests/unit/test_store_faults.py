"""A store behind a faulty network: a real S3 server, and a proxy that cuts, resets, refuses, slows and loses."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import webdataset

from gen_dist.store import StoreError
from gen_dist.store import gopen as safe_gopen
from gen_dist.store.s3 import Keys, Retries, S3Store
from gen_dist.store.s3_faults import PATIENT, explain, refused
from tests.support.fault_proxy import FaultProxy, Plan, run_fault_proxy
from tests.support.gateway import Gateway, run_gateway

QUICK = Retries(num_attempts=12, first_wait_s=0.005, longest_wait_s=0.02)
ROUGH = Plan(cut=0.3, reset=0.2, refuse=0.2, slow=0.1, lose=0.3, slow_s=0.05, seed=3)
DATA = bytes(range(256)) * 8 + os.urandom(3_000_000)


@pytest.fixture(scope="module", params=[True, False], ids=["etag", "without-etag"])
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway"), keep_etag=request.param) as running:
        yield running


@pytest.fixture
def proxy(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with run_fault_proxy(gateway) as running:
        for name, value in {**gateway.environment, "AWS_ENDPOINT_URL": running.endpoint_url}.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def store(gateway: Gateway, proxy: FaultProxy, tmp_path: Path) -> S3Store:
    return S3Store(
        bucket=gateway.bucket,
        prefix=tmp_path.name,
        endpoint_url=proxy.endpoint_url,
        region=gateway.region,
        addressing="path",
        retries=QUICK,
    )


def test_reads_through_a_rough_network_lose_no_byte(proxy: FaultProxy, store: S3Store) -> None:
    info = store.write("x", DATA)
    proxy.plan = ROUGH

    def read(number: int) -> bool:
        start, end = number * 10_007, 2_500_000 + number * 10_007
        out = bytearray(end - start)
        store.read_into("x", start, memoryview(out), version=info.version)
        return out == DATA[start:end] == store.read("x", start, end, version=info.version)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(16)))
    with store.open("x", version=info.version) as file:
        assert file.read() == DATA
    assert {"cut", "reset", "refuse", "slow"} <= proxy.counts.keys()
    assert store.stats.num_retries >= proxy.counts["cut"] + proxy.counts["refuse"]
    assert store.stats.num_requests == proxy.counts["requests"]


def test_an_error_of_a_read_holds_no_signature(proxy: FaultProxy, store: S3Store) -> None:
    """Reads go to signed addresses, which are secrets for an hour."""
    info = store.write("x", DATA)
    proxy.plan = Plan(reset=1.0)
    with pytest.raises(StoreError) as broken:
        store.read("x", version=info.version)
    unreachable = S3Store(bucket="b", endpoint_url="http://127.0.0.1:9", addressing="path", retries=Retries(1))
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:9") as unreached:
        unreachable.read("x")
    for caught in (broken, unreached):
        text = "".join(traceback.format_exception(caught.value))
        assert "Signature=" not in text
        assert "X-Amz" not in text


def test_an_error_names_the_keys_that_say_where_the_store_is() -> None:
    keys = Keys("run.checkpoints", "run.s3")
    assert explain(ConnectionError("gone"), endpoint_url="", keys=keys)[1].endswith("(run.s3.endpoint_url)")
    assert explain(refused(404, b"<Code>NoSuchBucket</Code>"), endpoint_url="", keys=keys)[1].endswith(
        "run.checkpoints"
    )


def test_a_stream_is_one_request_and_goes_on_where_it_broke(proxy: FaultProxy, store: S3Store) -> None:
    info = store.write("x", DATA)
    proxy.requests.clear()
    assert store.stream("x", version=info.version).read() == DATA
    assert len(proxy.requests) == 1
    proxy.plan = Plan(cut=0.6, refuse=0.1, seed=1)
    for _ in range(3):
        with store.stream("x", version=info.version) as stream:
            assert b"".join(iter(lambda: stream.read(10_240), b"")) == DATA
    starts = [int(ranged.removeprefix("bytes=").rstrip("-")) for _, _, ranged in proxy.requests if ranged]
    assert proxy.counts["cut"] > 0
    assert min(starts) > 0


def test_writes_through_a_rough_network_arrive_whole(proxy: FaultProxy, store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(DATA * 6)
    proxy.plan = ROUGH
    info = store.write_file("large", tmp_path / "large")
    for number in range(5):
        store.write(f"small-{number}", DATA[:1000])
    proxy.plan = Plan()
    assert store.list("large") == [info]
    assert store.read("large", version=info.version) == DATA * 6
    assert all(store.read(f"small-{number}") == DATA[:1000] for number in range(5))
    assert proxy.counts["lose"] > 0


def test_an_upload_that_fails_leaves_no_parts_and_no_object(
    gateway: Gateway, proxy: FaultProxy, store: S3Store, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(DATA * 6)
    broken = threading.Event()

    def break_parts(method: str, path: str) -> None:
        if method == "PUT" and "partNumber" in path:
            broken.set()
            raise ConnectionAbortedError("as planned")

    proxy.before_request = break_parts
    hasty = S3Store(
        bucket=gateway.bucket,
        prefix=tmp_path.name,
        endpoint_url=proxy.endpoint_url,
        region=gateway.region,
        retries=Retries(num_attempts=2, first_wait_s=0.005),
    )
    with pytest.raises(StoreError, match=r"large: writing bytes \d+-\d+: .*\(2 attempts\); check that http"):
        hasty.write_file("large", tmp_path / "large")
    assert broken.is_set()
    assert not store.list("*")
    assert any(method == "DELETE" and "uploadId" in path for method, path, _ in proxy.requests)


def test_a_conditional_write_whose_answer_is_lost_is_no_conflict(proxy: FaultProxy, store: S3Store) -> None:
    for number in range(6):
        proxy.plan = Plan(lose=0.3, seed=number)
        first = store.write(f"x{number}", b"one", if_version="")
        assert store.write(f"x{number}", b"second", if_version=first.version).size_bytes == 6
    assert proxy.counts["lose"] > 2


def test_a_patient_store_waits_out_what_a_person_would_be_told_of(
    proxy: FaultProxy, store: S3Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gen_dist.store.s3.PATIENT", Retries(PATIENT.num_attempts, 0.001, 0.01))
    info = store.write("x", DATA)
    down = iter(range(30))

    def refuse(method: str, path: str) -> None:
        if next(down, None) is not None:
            raise ConnectionAbortedError("as planned")

    proxy.before_request = refuse
    with pytest.raises(StoreError, match=r"\(12 attempts\)"):
        store.read("x", version=info.version)
    store.be_patient()
    assert store.read("x", version=info.version) == DATA
    assert "store_waits" in caplog.text
    waits_s = [PATIENT.wait_s(attempt) for attempt in range(1, PATIENT.num_attempts)]
    assert 180 < sum(waits_s) < 400


def test_a_store_that_stays_down_is_one_line_with_object_range_and_attempts(proxy: FaultProxy, store: S3Store) -> None:
    proxy.plan = Plan(refuse=1.0)
    with pytest.raises(
        StoreError, match=r"x: reading bytes 5-9: SlowDown: .* \(12 attempts\); the store is over"
    ) as up:
        store.read("x", 5, 10)
    assert up.value.num_attempts == 12 == len(proxy.requests)


def test_an_object_that_changes_between_two_halves_of_a_read_stops_it(
    gateway: Gateway, proxy: FaultProxy, store: S3Store, tmp_path: Path
) -> None:
    store.write("x", DATA)
    other = DATA[::-1][:-1]  # of another size: stores without ETags know times to the second

    def replace(method: str, path: str) -> None:
        if method == "GET" and len(proxy.requests) > 1:
            gateway.client().put_object(Bucket=gateway.bucket, Key=f"{tmp_path.name}/x", Body=other)

    for read in (lambda: store.read("x"), lambda: store.stream("x").read()):  # neither was given a version
        store.write("x", DATA)
        proxy.requests.clear()
        proxy.before_request, proxy.plan = replace, Plan(cut=1.0)
        with pytest.raises(StoreError, match=r"x: reading .*the object changed after it was indexed"):
            read()
        proxy.before_request, proxy.plan = None, Plan()


def test_the_version_of_a_write_is_never_that_of_another_writer(
    gateway: Gateway, proxy: FaultProxy, store: S3Store, tmp_path: Path
) -> None:
    def overwrite(method: str, path: str) -> None:
        if method == "HEAD":
            gateway.client().put_object(Bucket=gateway.bucket, Key=f"{tmp_path.name}/x", Body=b"of another")

    proxy.before_request = overwrite
    with pytest.raises(StoreError, match=r"object changed after it was indexed|written with 4 bytes, and is of 10"):
        store.read("x", version=store.write("x", b"ours").version)


def test_a_client_survives_a_fork_and_a_pickle(store: S3Store) -> None:
    store.write("x", DATA)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.read("x", 0, 10) == DATA[:10]
    assert (copy.stats.num_requests, copy.stats.received_bytes) == (1, 10)  # its own alone
    assert pickle.loads(pickle.dumps(store.stats)).counts() == store.stats.counts()
    child = os.fork()
    if not child:
        os._exit(0 if store.read("x", 5, 10) == DATA[5:10] else 1)
    assert store.read("x", 0, 5) == DATA[:5]
    assert os.waitpid(child, 0)[1] == 0


@pytest.fixture
def shards(gateway: Gateway, proxy: FaultProxy, tmp_path: Path) -> list[str]:
    """Three shards of 40 samples of 20 kB, written by webdataset itself to `s3://`."""
    safe_gopen.register()
    urls = [f"s3://{gateway.bucket}/{tmp_path.name}/{number}.tar" for number in range(3)]
    for number, url in enumerate(urls):
        with webdataset.TarWriter(url) as writer:
            for sample in range(40):
                writer.write({"__key__": f"{number}-{sample:03}", "bin": bytes([sample]) * 20_000, "txt": f"{sample}"})
    return urls


def test_plain_webdataset_reads_every_sample_through_a_rough_network(
    proxy: FaultProxy, shards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Retries, "wait_s", lambda *_: 0.005)
    num_cut = 0
    for seed in range(3):
        proxy.plan = Plan(cut=0.5, refuse=0.2, seed=seed)
        samples = list(webdataset.WebDataset(shards, shardshuffle=False))
        assert [sample["__key__"] for sample in samples] == [f"{s}-{n:03}" for s in range(3) for n in range(40)]
        assert all(sample["bin"] == bytes([n % 40]) * 20_000 for n, sample in enumerate(samples))
        num_cut = proxy.counts["cut"]
    assert num_cut > 3


def test_half_a_shard_is_not_uploaded_after_an_exception(gateway: Gateway, proxy: FaultProxy, tmp_path: Path) -> None:
    url = f"s3://{gateway.bucket}/{tmp_path.name}/half.tar"

    def fail() -> None:
        with safe_gopen.open_url(url, "wb") as file:
            file.write(b"first half")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    assert not proxy.counts["PUT"]


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3:///key"])
def test_an_address_of_no_object_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="no object; write s3://bucket/key"):
        safe_gopen.open_url(url)
