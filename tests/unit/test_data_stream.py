"""The stream: batches are a function of their position, cached or not, ahead of time or not."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gen_dist.data.errors import DataError
from gen_dist.data.order import own_part
from gen_dist.data.source import check_data, data_digest, open_index, open_stream
from gen_dist.data.stream import Batch, Stream
from gen_dist.job.spec import DataSpec
from tests.support.shards import FIELDS, Wanted, noise, png, write_shards

NUM_SAMPLES = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shards")
    write_shards(path, num_samples=NUM_SAMPLES, per_shard=20)
    return path


def opened(folder: Path, *, fields: dict[str, Wanted] = FIELDS, seed: int = 0, **spec: Any) -> Stream:
    return open_stream(DataSpec(url=str(folder), **spec), pattern="train-*.tar", fields=fields, seed=seed)


@pytest.fixture
def stream(folder: Path) -> Iterator[Stream]:
    with opened(folder) as opened_stream:
        yield opened_stream


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name])
        else:
            assert value == other[name]


def test_a_batch_holds_the_images_captions_and_labels_of_its_samples(stream: Stream) -> None:
    batch = stream.batch(45, 10)  # into the second epoch
    ids = stream.order.ids(45, 10).tolist()
    assert batch["image"].shape == (10, 3, 16, 16)
    assert batch["image"].dtype == torch.uint8
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == ids
    assert batch["caption"] == [f"caption {number}" for number in ids]
    white = Image.new("RGBA", (16, 16), (255, 255, 255, 255))
    for row, number in enumerate(ids):
        seen = np.asarray(Image.alpha_composite(white, noise(number)).convert("RGB"))
        np.testing.assert_array_equal(batch["image"][row].permute(1, 2, 0).numpy(), seen)


@pytest.mark.parametrize("cache_bytes", [0, 3_000, 20_000, 1 << 20])
def test_the_cache_changes_no_batch(folder: Path, stream: Stream, cache_bytes: int) -> None:
    with opened(folder, cache_bytes=cache_bytes) as other:
        for position, count in [(0, 7), (3, 60), (0, 7), (120, 1), (0, 0), (5, 130)]:
            assert_equal(stream.batch(position, count), other.batch(position, count))


def test_a_batch_is_the_callers_own(stream: Stream) -> None:
    first = stream.batch(0, 4)
    kept = first["image"].clone()
    first["image"].zero_()
    assert torch.equal(stream.batch(0, 4)["image"], kept)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_workers_together_see_what_one_worker_sees(folder: Path, stream: Stream, world_size: int) -> None:
    labels: list[int] = []
    for position in range(0, NUM_SAMPLES, 10):
        for rank in range(world_size):
            batch = stream.batch(*own_part(position, 10, rank=rank, world_size=world_size))
            labels += batch["label"].tolist()
    assert labels == stream.batch(0, NUM_SAMPLES)["label"].tolist()
    assert sorted(labels) == list(range(NUM_SAMPLES))


def test_two_image_fields_and_json_captions_come_from_the_same_sample(folder: Path) -> None:
    fields = {"small": Wanted("image", (3, 8, 8)), "wide": Wanted("image", (3, 8, 24)), "text": Wanted("caption")}
    with opened(folder, fields=fields, caption="json:name") as stream:
        batch = stream.batch(0, 3)
        assert batch["small"].shape == (3, 3, 8, 8)
        assert batch["wide"].shape == (3, 3, 8, 24)
        assert batch["text"] == [f"sample {number}" for number in stream.order.ids(0, 3)]


def test_another_seed_gives_another_order(folder: Path, stream: Stream) -> None:
    with opened(folder, seed=1) as other:
        assert other.batch(0, 50)["label"].tolist() != stream.batch(0, 50)["label"].tolist()


def test_prefetched_batches_are_the_batches(stream: Stream) -> None:
    positions = [(0, 8), (8, 8), (48, 8), (0, 1)]
    seen = list(stream.prefetch(positions))
    assert [position for position, _ in seen] == [0, 8, 48, 0]
    for (position, count), (_, batch) in zip(positions, seen, strict=True):
        assert_equal(batch, stream.batch(position, count))


def test_prefetching_stays_a_few_batches_ahead(stream: Stream) -> None:
    asked: list[int] = []

    def positions() -> Iterator[tuple[int, int]]:
        for position in range(1000):
            asked.append(position)
            yield position, 1

    running = stream.prefetch(positions(), depth=3)
    next(running)
    time.sleep(0.3)
    assert len(asked) <= 6
    running.close()
    assert list(running) == []


def threads() -> set[threading.Thread]:
    """Ours; other tests of this process may have left some of theirs."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("gen-dist-")}


def test_closing_a_stream_ends_its_threads(folder: Path) -> None:
    before = threads()
    stream = opened(folder)
    running = stream.prefetch((position, 4) for position in range(10_000))
    next(running)
    assert threads() > before
    stream.close()
    stream.close()
    assert threads() <= before


def test_an_iterator_that_nobody_uses_any_more_ends_its_thread(stream: Stream) -> None:
    running = stream.prefetch((position, 4) for position in range(10_000))
    next(running)
    of_prefetch = {thread for thread in threads() if "prefetch" in thread.name}
    assert of_prefetch
    stream._prefetches.clear()
    del running
    gc.collect()
    assert not of_prefetch & threads()


def broken_shard(folder: Path, *, number: int, data: bytes) -> None:
    """A shard of which one image is replaced."""
    with tarfile.open(folder / "train-00000.tar", "w") as tar:
        for key in range(8):
            image = data if key == number else png(noise(key))
            for name, content in ((f"{key}.png", image), (f"{key}.txt", b"text"), (f"{key}.json", b'{"label": 1}')):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_an_image_that_does_not_decode_is_named_with_its_shard_and_what_to_do(tmp_path: Path) -> None:
    broken_shard(tmp_path, number=7, data=b"not an image")
    with (
        pytest.raises(
            DataError, match=r"train-00000\.tar: sample '7': \.png: no readable image of 12 bytes.*; replace"
        ),
        opened(tmp_path) as stream,
    ):
        stream.batch(0, 8)


def test_an_error_ahead_of_time_reaches_the_consumer_at_its_turn(tmp_path: Path) -> None:
    broken_shard(tmp_path, number=int(opened_order(tmp_path)[5]), data=b"not an image")
    with opened(tmp_path) as stream:
        before = threads()
        running = stream.prefetch((position, 1) for position in range(8))
        assert [next(running)[0] for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(DataError, match="no readable image"):
            next(running)
        assert list(running) == []
        assert threads() <= before


def opened_order(folder: Path) -> np.ndarray:
    write_shards(folder, num_samples=8, per_shard=8)
    with opened(folder) as stream:
        return stream.order.ids(0, 8)


def test_a_shard_that_shrinks_during_a_run_is_noticed(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=8, per_shard=8)
    with opened(tmp_path, cache_bytes=0) as stream:
        path = tmp_path / "train-00000.tar"
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(DataError, match=r"the shard ends at byte \d+ inside this sample"):
            stream.batch(0, 8)


def test_a_wrong_label_key_is_found_when_the_stream_opens(folder: Path) -> None:
    says = r"\.json: the JSON has no key 'lable' .it has label, name.; .*data\.label"
    with pytest.raises(DataError, match=says):
        opened(folder, label="json:lable")


def test_an_index_that_was_built_once_serves_every_worker(folder: Path, stream: Stream) -> None:
    spec = DataSpec(url=str(folder))
    index = open_index(spec, pattern="train-*.tar")
    with open_stream(spec, pattern="unread", fields=FIELDS, seed=0, index=index) as other:
        assert_equal(other.batch(0, 9), stream.batch(0, 9))
    assert stream.digest == data_digest(spec) == check_data(spec, fields=FIELDS).digest


def test_heldout_shards_are_checked_too(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=2, per_shard=2)
    spec = DataSpec(url=str(tmp_path), train="train-*.tar", heldout="heldout-*.tar")
    with pytest.raises(DataError, match=r"no shard matches 'heldout-\*\.tar'"):
        check_data(spec, fields=FIELDS)


def test_a_batch_of_cached_samples_costs_less_than_a_millisecond(folder: Path) -> None:
    fields = {**FIELDS, "image": Wanted("image", (3, 64, 64))}
    with opened(folder, fields=fields) as stream:
        stream.batch(0, NUM_SAMPLES)
        times_s = []
        for position in range(0, 600, 3):
            start_s = time.perf_counter()
            stream.batch(position, 32)
            times_s.append(time.perf_counter() - start_s)
        assert np.median(times_s) < 1e-3


def test_the_embedded_data_streams() -> None:
    spec = DataSpec(url="embedded://emoji", train="train-*.tar", heldout="heldout-*.tar")
    assert len(check_data(spec, fields=FIELDS)) > 1000
    with open_stream(spec, pattern=spec.heldout, fields=FIELDS, seed=0) as stream:
        batch = stream.batch(0, stream.num_samples)
    assert all(isinstance(caption, str) and caption for caption in batch["caption"])
    assert set(batch["label"].tolist()) <= set(range(10))


def test_a_program_that_ends_in_the_middle_of_prefetching_does_not_hang(folder: Path) -> None:
    program = f"""
from gen_dist.data.source import open_stream
from gen_dist.job.spec import DataSpec
from tests.support.shards import FIELDS
stream = open_stream(DataSpec(url={str(folder)!r}), pattern="*.tar", fields=FIELDS, seed=0)
running = stream.prefetch((position, 8) for position in range(10**9))
next(running)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""
