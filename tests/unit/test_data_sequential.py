"""Streaming without an index: own shards for each worker, every sample once a pass, and one line for what is lost."""

from __future__ import annotations

import io
import pickle
import shutil
import tarfile
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen_dist.checkpoint import CheckpointError
from gen_dist.cli.app import main
from gen_dist.data.audit import kept
from gen_dist.data.errors import DataError
from gen_dist.data.order import Plan
from gen_dist.data.sequential import SequentialStream, Unindexed, find_unindexed
from gen_dist.data.source import open_stream
from gen_dist.data.stored import FIRST_BYTES, SAMPLE_BYTES, Stored, read_samples, shuffled
from gen_dist.data.stream import BadSample, Batch
from gen_dist.job.spec import DataSpec, JobSpec
from gen_dist.recipes.contract import Clock
from gen_dist.store import ObjectInfo, open_store
from gen_dist.store.s3 import S3Store
from gen_dist.train.collective import Team
from gen_dist.train.driver import _data
from gen_dist.train.ledger import Ledger, check_same_reading
from tests.support.shards import FIELDS, noise, png, write_shards
from tests.unit.test_store_s3 import QUICK, FaultyServer

NUM_SAMPLES = 50
NUM_SHARDS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards")
    write_shards(path, num_samples=NUM_SAMPLES, per_shard=10)
    return path


def unindexed(folder: Path) -> Unindexed:
    return found(DataSpec(url=str(folder), index_limit_bytes=0))[0]


def found(spec: DataSpec) -> tuple[Unindexed, Unindexed | None]:
    data = find_unindexed(spec)
    assert data is not None
    return data


def opened(folder: Path, *, seed: int = 0, share: Sequence[int] = (0, 1), started_at: int = 0, **spec: Any) -> Any:
    rank, num_workers = share
    return SequentialStream(
        unindexed(folder),
        fields=FIELDS,
        spec=DataSpec(url=str(folder), index_limit_bytes=0, **spec),
        seed=seed,
        rank=rank,
        num_workers=num_workers,
        started_at=started_at,
    )


def taken(stream: SequentialStream, num_samples: int, *, size: int = 5) -> list[Batch]:
    """The first batches of a worker."""
    running = stream.prefetch((position, size) for position in range(0, 1 << 30, size))
    batches = [batch for _, batch in islice(running, num_samples // size)]
    running.close()
    return batches


def labels(batches: Sequence[Batch]) -> list[int]:
    return [label for batch in batches for label in batch["label"].tolist()]


def test_every_sample_comes_once_a_pass_in_a_new_order(folder: Path) -> None:
    with opened(folder) as stream:
        seen = labels(taken(stream, 3 * NUM_SAMPLES))
    passes = [seen[first : first + NUM_SAMPLES] for first in range(0, 3 * NUM_SAMPLES, NUM_SAMPLES)]
    assert [sorted(one) for one in passes] == [list(range(NUM_SAMPLES))] * 3
    assert len({tuple(one) for one in [list(range(NUM_SAMPLES)), *passes]}) == 4


def test_a_batch_is_what_a_stream_with_an_index_gives_of_the_same_samples(folder: Path) -> None:
    with opened(folder) as stream, open_stream(DataSpec(url=str(folder)), fields=FIELDS, seed=0) as other:
        whole = other.batch(0, NUM_SAMPLES)
        order = torch.argsort(whole["label"])
        assert torch.equal(whole["image"][order], stream.batch(0, NUM_SAMPLES)["image"])
        batch = taken(stream, 10, size=10)[0]
    assert torch.equal(whole["image"][order][batch["label"]], batch["image"])
    assert batch["image"].shape == (10, 3, 16, 16)
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.uint8, torch.int64)
    assert batch["caption"] == [f"caption {label}" for label in batch["label"].tolist()]
    assert batch["sample_id"].tolist() == [label % 10 for label in batch["label"].tolist()]
    assert batch["weight"].tolist() == [1.0] * 10


def test_crops_and_mirrors_belong_to_the_position(folder: Path) -> None:
    drawn = {"crop": "random", "min_scale": 0.5, "flip": True}
    with opened(folder, **drawn) as one, opened(folder, **drawn, decode_threads=1) as other, opened(folder) as plain:
        batch = taken(one, 10)[1]
        assert torch.equal(batch["image"], taken(other, 10)[1]["image"])
        assert not torch.equal(batch["image"], taken(plain, 10)[1]["image"])


def test_the_first_samples_are_those_of_the_first_shards_on_every_worker(folder: Path) -> None:
    for share in ((0, 2), (1, 2)):
        with opened(folder, share=share) as stream:
            assert stream.batch(0, 4)["label"].tolist() == [0, 1, 2, 3]
            assert stream.batch(8, 4)["label"].tolist() == [8, 9, 10, 11]
            assert stream.batch(48, 4)["label"].tolist() == [48, 49, 0, 1]
            assert stream.num_samples is None


@pytest.mark.parametrize("num_workers", [2, 3, 5])
def test_workers_have_shards_of_their_own_and_all_of_them_together(folder: Path, num_workers: int) -> None:
    shards: list[set[int]] = []
    for rank in range(num_workers):
        with opened(folder, share=(rank, num_workers)) as stream:
            own = len(range(rank, NUM_SHARDS, num_workers)) * 10
            seen = labels(taken(stream, own))
            assert len(set(seen)) == own
            shards.append({label // 10 for label in seen})
    assert sum(map(len, shards)) == NUM_SHARDS
    assert set().union(*shards) == set(range(NUM_SHARDS))


def test_the_seed_and_where_a_run_goes_on_change_the_order_and_nothing_else_does(folder: Path) -> None:
    orders = []
    for how in ({}, {}, {"seed": 1}, {"started_at": 64}):
        with opened(folder, **how) as stream:
            orders.append(tuple(labels(taken(stream, NUM_SAMPLES))))
    assert orders[0] == orders[1]
    assert len(set(orders)) == 3


def test_uneven_shards_end_no_worker(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=2, per_shard=2)
    write_shards(tmp_path, num_samples=40, per_shard=40, stem="large")
    streams = [opened(tmp_path, share=(rank, 2)) for rank in range(2)]
    counts = [Counter(labels(taken(stream, 200))) for stream in streams]
    assert all(count.total() == 200 for count in counts)
    for stream in streams:
        stream.close()


def test_fewer_shards_than_workers_is_one_line_that_names_the_index(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"5 shards without an index for 6 workers.*; run `gen-dist data index .*`"
    ) as e:
        opened(folder, share=(0, 6))
    assert "\n" not in str(e.value)


def add_member(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_bad_samples_keep_a_place_with_weight_0_and_their_reason(tmp_path: Path) -> None:
    whole = (("png", png(noise(1))), ("txt", b"text"), ("json", b'{"label": 1}'))
    add_member(
        tmp_path / "a.tar",
        [
            *((f"good.{end}", data) for end, data in whole),
            *((f"broken.{end}", b"no image" if end == "png" else data) for end, data in whole),
            *((f"lacking.{end}", data) for end, data in whole[:1]),
            *((f"double.{end}", data) for end, data in (*whole, whole[1])),
            ("README", b"no sample"),
            ("extra.raw.bin", bytes(70_000)),
            *((f"last.{end}", data) for end, data in whole),
        ],
    )
    with opened(tmp_path) as stream:
        batch = stream.batch(0, 6)
        assert batch["weight"].tolist() == [1, 0, 0, 0, 0, 1]
        said = {bad.key: (bad.position, bad.sample_id, bad.reason) for bad in batch["bad"]}
        passed = taken(stream, 6, size=6)[0]
    assert said["broken"][:2] == (1, 1)
    assert said["broken"][2].startswith("image: no readable image of 8 bytes")
    assert said["lacking"] == (2, 2, "caption: no member .txt")
    assert said["double"] == (3, 3, "two members .txt")
    assert said["extra"] == (4, 4, "image: no member .png or .jpg or .jpeg or .webp")
    assert {bad.shard for bad in batch["bad"]} == {f"{tmp_path}/a.tar"}
    assert (batch["image"][1] == 128).all()
    assert batch["caption"] == ["text", "", "", "", "", "text"]
    assert Counter(passed["caption"]) == Counter(batch["caption"])
    assert {bad.key for bad in passed["bad"]} == set(said)


@pytest.mark.parametrize("cut", [512 * 3, -4_000])
def test_a_truncated_shard_is_one_line_with_its_byte_and_a_remedy(tmp_path: Path, folder: Path, cut: int) -> None:
    shutil.copy(folder / "train-00000.tar", tmp_path)
    path = tmp_path / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:cut] if cut > 0 else path.read_bytes()[: 1024 * 20 + 100])
    with (
        opened(tmp_path) as stream,
        pytest.raises(DataError, match=r"train-00000\.tar: .*at byte \d+ .*; copy the shard again") as caught,
    ):
        taken(stream, 500)
    assert "\n" not in str(caught.value)


def test_shards_without_a_sample_end_with_one_line_and_never_hang(tmp_path: Path) -> None:
    add_member(tmp_path / "a.tar", [("README", b"x")])
    with opened(tmp_path) as stream, pytest.raises(DataError, match=r"the shards hold no samples .a\.tar."):
        taken(stream, 5)


def stored(number: int, num_bytes: int = 1 << 20) -> Stored:
    return Stored("a.tar", number, f"{number}", {"png": bytes(num_bytes)})


def test_the_buffer_is_bounded_and_begins_small() -> None:
    read = 0

    def samples() -> Any:
        nonlocal read
        for read in range(1, 401):
            yield stored(read)

    limit_bytes = 64 << 20
    leaving = shuffled(samples(), limit_bytes=limit_bytes, random=np.random.default_rng(0))
    seen = [next(leaving).number]
    assert read <= FIRST_BYTES // (1 << 20) + 1
    most = 0
    for sample in leaving:
        seen.append(sample.number)
        most = max(most, read - len(seen) + 1)
    assert sorted(seen) == list(range(1, 401))
    assert 60 <= most <= limit_bytes // ((1 << 20) + SAMPLE_BYTES) + 1


def test_batches_read_ahead_are_bounded_in_bytes(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=200, per_shard=50)
    with opened(tmp_path, shuffle_bytes=20_000) as stream:
        running = stream.prefetch((position, 5) for position in range(0, 10_000, 5))
        most = 0.0
        for _, _ in islice(running, 60):
            most = max(most, stream.metrics()["held_bytes"])
        assert 0 < most < 20_000 + 8 * 5 * 3_000


def test_a_shard_that_changed_since_it_was_listed_is_told(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=8, per_shard=8)
    with opened(tmp_path) as stream:
        write_shards(tmp_path, num_samples=9, per_shard=9)
        with pytest.raises(Exception, match="changed after it was indexed"):
            stream.batch(0, 8)


def test_members_that_no_field_reads_take_no_memory(tmp_path: Path) -> None:
    add_member(tmp_path / "a.tar", [("0.raw", bytes(1 << 20)), ("0.txt", b"text")])
    store = open_store(str(tmp_path), DataSpec(url=str(tmp_path)).s3)
    (sample,) = read_samples(store, store.list("*.tar")[0], frozenset(["txt"]))
    assert (sample.key, dict(sample.members)) == ("0", {"txt": b"text"})


def test_a_shard_in_a_bucket_is_one_request_that_goes_on_after_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    add_member(tmp_path / "a.tar", [(f"{number}.bin", bytes([number]) * 300_000) for number in range(8)])
    with FaultyServer() as server:
        server.body = (tmp_path / "a.tar").read_bytes()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        store = S3Store(bucket="b", prefix="", endpoint_url=url, region="us-east-1", addressing="path", retries=QUICK)
        shard = ObjectInfo("a.tar", len(server.body), server.etag)
        for faults, num_requests in (([], 1), (["cut"], 2)):
            server.faults, server.ranges = list(faults), []
            samples = list(read_samples(store, shard, frozenset(["bin"])))
            assert [sample.members["bin"] for sample in samples] == [bytes([n]) * 300_000 for n in range(8)]
            assert len(server.ranges) == num_requests
        server.shutdown()


def test_the_limit_decides_and_an_index_ends_the_question(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=20, per_shard=10)
    size = sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert find_unindexed(DataSpec(url=str(tmp_path))) is None
    assert find_unindexed(DataSpec(url=str(tmp_path), index_limit_bytes=size)) is None
    data, heldout = found(DataSpec(url=str(tmp_path), index_limit_bytes=size - 1))
    assert heldout is None
    assert (len(data.shards), data.num_bytes) == (2, size)
    data, heldout = found(DataSpec(url=str(tmp_path), heldout="train-00001.tar", index_limit_bytes=size))
    assert heldout is not None
    assert len(heldout.shards) == 1
    assert pickle.loads(pickle.dumps(data)).digest == data.digest == unindexed(tmp_path).digest
    assert heldout.digest != data.digest
    assert main(["data", "index", str(tmp_path)]) == 0
    assert find_unindexed(DataSpec(url=str(tmp_path), index_limit_bytes=0)) is None


@pytest.mark.parametrize("key", ["mix", "derived", "aspect_buckets"])
def test_what_needs_an_index_says_so_in_one_line(folder: Path, key: str) -> None:
    value = {"mix": [{"url": str(folder)}], "derived": str(folder), "aspect_buckets": True}[key]
    spec = DataSpec.model_validate({"url": str(folder), "index_limit_bytes": 9, key: value})
    says = rf"data\.{key} needs an index, and [\d,]+ bytes of shards have none.* = 9; run `gen-dist data index "
    with pytest.raises(DataError, match=says) as caught:
        find_unindexed(spec)
    assert "\n" not in str(caught.value)


def job(folder: Path, **data: Any) -> JobSpec:
    small = {"total_images": 64, "global_batch_images": 16, "micro_batch_images": 8}
    spec = {"url": str(folder), "index_limit_bytes": 0, **data}
    return JobSpec.model_validate({"name": "r", "recipe": "dcgan", "data": spec, "train": small})


def test_a_run_says_once_what_it_gives_up(folder: Path) -> None:
    heard: list[Any] = []
    data, heldout = _data(job(folder, heldout="train-00004.tar"), heard.append)
    assert isinstance(data, Unindexed)
    assert isinstance(heldout, Unindexed)
    assert [event["kind"] for event in heard] == ["data", "warning"]
    assert (heard[0]["num_train"], heard[0]["digest"]) == (None, data.digest)
    text = heard[1]["text"]
    for said in ("not counted", "once an epoch", "data.shuffle_bytes", "begins a new pass", f"data index {folder}`"):
        assert said in text
    assert "\n" not in text


def test_a_job_for_more_workers_than_shards_ends_before_it_starts(folder: Path) -> None:
    one = job(folder)
    cluster = one.cluster.model_copy(update={"num_workers": [1, 8]})
    train = one.train.model_copy(update={"global_batch_images": 64})  # which eight split
    many = one.model_copy(update={"cluster": cluster, "train": train})
    with pytest.raises(DataError, match="5 shards without an index for 8 workers"):
        _data(many, lambda event: None)


def test_data_of_which_nothing_decodes_is_refused_before_anything_starts(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no member \.tiff; replace these samples, or correct data\.image"):
        _data(job(folder, image="tiff"), lambda event: None)


def test_the_ledger_keeps_that_there_is_nothing_to_prove(folder: Path) -> None:
    ledger = Ledger(None, team=Team(torch.device("cpu")), max_bad_share=0.0)
    with opened(folder) as stream:
        for batch in taken(stream, 20):
            ledger.took(batch)
            assert batch.keys() == {"weight", *FIELDS}
    state = ledger.commit(Clock(images=20, step=4))
    assert state == {"plan": {"kind": "sequential"}, "audit": [], "bad": []}
    with pytest.raises(
        DataError, match=r"^here: the run streamed shards without an index, so there is nothing to prove"
    ):
        kept(state, where="here")


def test_samples_of_one_number_in_different_shards_are_counted_apart() -> None:
    def unread(shard: int, number: int) -> BadSample:
        return BadSample(shard, number, f"s3://b/{shard}.tar", "k", "image: no JPEG")

    def took(ledger: Ledger, *bad: BadSample) -> None:
        ledger.took({"sample_id": torch.zeros(10, dtype=torch.int64), "bad": list(bad)})

    ledger = Ledger(None, team=Team(torch.device("cpu")), max_bad_share=0.1)
    took(ledger, *(unread(shard, 3) for shard in range(8)))
    assert ledger.check(Clock(images=40, step=4)) == 8
    state = ledger.commit(Clock(images=40, step=4))
    again = Ledger(None, team=Team(torch.device("cpu")), max_bad_share=0.1, state=state)
    took(again, unread(0, 3), unread(8, 3), unread(8, 3))  # one of them known, one twice
    assert again.check(Clock(images=50, step=5)) == 9
    took(again, *(unread(shard, 3) for shard in range(9, 12)))
    with pytest.raises(DataError, match=r"12 of 60 samples could not be read, more than data\.max_bad_share"):
        again.check(Clock(images=60, step=6))


def test_a_run_goes_on_as_it_began() -> None:
    here = "images-20"
    plan = {"plan": {"num_lanes": 1, "window": 1, "run": 1}, "audit": [], "bad": []}
    streamed = {**plan, "plan": {"kind": "sequential"}}
    check_same_reading({}, streams=True, where=here)
    check_same_reading(plan, streams=False, where=here)
    check_same_reading(streamed, streams=True, where=here)
    assert Plan(**plan["plan"]).run == 1  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"^images-20: its shards were streamed .* now read by an index; give"):
        check_same_reading(streamed, streams=False, where=here)
    with pytest.raises(
        CheckpointError, match=r"were read by an index and are now streamed .*; run `gen-dist data inde"
    ):
        check_same_reading(plan, streams=True, where=here)
