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
import webdataset as wds
from PIL import Image

from gen_dist.data.errors import DataError
from gen_dist.data.prefetch import PLANNED
from gen_dist.data.source import Data, check_data, data_digest, open_index, open_stream
from gen_dist.data.stream import Batch, Stream
from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import DataSpec
from gen_dist.store import StoreError
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
            first, end = 10 * rank // world_size, 10 * (rank + 1) // world_size
            labels += stream.batch(position + first, end - first)["label"].tolist()
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
    assert len(asked) <= PLANNED + 3 + 2
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
    stream._prefetches._running.clear()
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


def test_an_image_that_does_not_decode_keeps_its_place_with_weight_0_and_is_named(tmp_path: Path) -> None:
    broken_shard(tmp_path, number=7, data=b"not an image")
    with opened(tmp_path) as stream:
        batch = stream.batch(0, 16)
        ids = stream.order.ids(0, 16)
    assert batch["weight"].tolist() == (ids != 7).astype(float).tolist()
    assert [bad.position for bad in batch["bad"]] == np.flatnonzero(ids == 7).tolist()
    bad = batch["bad"][0]
    assert (bad.key, bad.sample_id, Path(bad.shard).name) == ("7", 7, "train-00000.tar")
    assert bad.reason.startswith("image: no readable image of 12 bytes")
    assert (batch["image"][torch.from_numpy(ids == 7)] == 128).all()
    assert batch["caption"] == ["" if number == 7 else "text" for number in ids]


def test_data_of_which_nothing_decodes_is_refused_before_anything_starts(tmp_path: Path, folder: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("0.png", "0.txt", "0.json"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match=r"a\.tar: sample '0': image: no readable image of 1 bytes.*; replace"):
        check_data(DataSpec(url=str(tmp_path)), fields=FIELDS)
    says = r"label: the JSON has no key 'lable' .it has label, name.; .*data\.label"
    with pytest.raises(DataError, match=says):
        check_data(DataSpec(url=str(folder), label="json:lable"), fields=FIELDS)


def test_an_error_ahead_of_time_reaches_the_consumer_at_its_turn(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=1600, per_shard=8)  # a block each
    with opened(tmp_path, cache_bytes=0, shuffle_bytes=1) as stream:
        lost = int(stream.order.ids(40, 1)[0]) // 8
        first = int(np.flatnonzero(stream.order.ids(0, 50) // 8 == lost)[0])
        (tmp_path / f"train-{lost:05d}.tar").unlink()
        before = threads()
        running = stream.prefetch((position, 1) for position in range(1600))
        assert [next(running)[0] for _ in range(first)] == list(range(first))
        with pytest.raises(StoreError, match="No such file"):
            next(running)
        assert list(running) == []
        assert {thread for thread in threads() - before if "prefetch" in thread.name} == set()


def test_memory_is_bounded_and_a_bound_changes_no_batch(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=800, per_shard=8)
    with opened(tmp_path, cache_bytes=0) as whole, opened(tmp_path, cache_bytes=0, shuffle_bytes=20_000) as bounded:
        bounded.order = whole.order
        for (_, one), (_, other) in zip(
            whole.prefetch((position, 16) for position in range(0, 1600, 16)),
            bounded.prefetch((position, 16) for position in range(0, 1600, 16)),
            strict=True,
        ):
            assert_equal(one, other)
        assert bounded.metrics()["held_bytes"] <= 40_000 + 34 * 16 * 8_192
        assert whole.metrics()["held_bytes"] == 0  # every sample was taken twice, so nothing is kept


def test_crops_and_mirrors_belong_to_the_position(folder: Path, stream: Stream) -> None:
    drawn = {"crop": "random", "min_scale": 0.5, "flip": True}
    with opened(folder, **drawn) as one, opened(folder, **drawn, decode_threads=1, shuffle_bytes=1) as other:
        other.order = one.order
        batch = one.batch(30, 40)
        rows = [other.batch(position, 1)["image"] for position in range(30, 70)]
        assert torch.equal(batch["image"], torch.cat(rows))
        assert not torch.equal(batch["image"], stream.batch(30, 40)["image"])
        assert not torch.equal(one.batch(0, 50)["image"], one.batch(50, 50)["image"])


def test_an_array_comes_as_it_was_stored(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(6, 4, 8, 8)).astype(np.float16)
    with wds.TarWriter(str(tmp_path / "train-0.tar")) as tar:
        for number, latent in enumerate(latents):
            tar.write({"__key__": f"{number}", "latent.npy": latent, "txt": f"{number}"})
    field = Wanted("array", (4, 8, 8), member="latent.npy", dtype="float16")
    with opened(tmp_path, fields={"latent": field}) as stream:
        batch = stream.batch(0, 6)
        assert batch["latent"].dtype == torch.float16
        assert np.array_equal(batch["latent"].numpy(), latents[stream.order.ids(0, 6)])


def test_members_that_no_field_reads_are_not_fetched_where_they_are_large(tmp_path: Path) -> None:
    with wds.TarWriter(str(tmp_path / "train-0.tar")) as tar:
        for number in range(4):
            tar.write({"__key__": f"{number}", "raw.bin": bytes(1 << 20), "txt": f"caption {number}"})
    with opened(tmp_path, fields={"caption": Wanted("caption")}) as stream:
        texts = stream.batch(0, 4)["caption"]
        assert sorted(texts) == [f"caption {number}" for number in range(4)]
        assert stream.metrics()["received_bytes"] < 1 << 20


def test_a_shard_that_shrinks_during_a_run_is_noticed(tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=8, per_shard=8)
    with opened(tmp_path, cache_bytes=0) as stream:
        path = tmp_path / "train-00000.tar"
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(
            GenDistError, match=r"the shard ends at byte \d+ inside a sample|changed after it was indexed"
        ):
            stream.batch(0, 8)


def test_an_index_that_was_built_once_serves_every_worker(folder: Path, stream: Stream) -> None:
    spec = DataSpec(url=str(folder))
    index = open_index(spec, pattern="train-*.tar")
    with open_stream(spec, fields=FIELDS, seed=0, data=Data([index], [1.0])) as other:
        assert_equal(other.batch(0, 9), stream.batch(0, 9))
    assert stream.digest == data_digest(spec) == check_data(spec, fields=FIELDS)[0].digest


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
    assert len(check_data(spec, fields=FIELDS)[0]) > 1000
    with open_stream(spec, pattern=spec.heldout, fields=FIELDS, seed=0) as stream:
        batch = stream.batch(0, stream.num_samples)
    assert all(isinstance(caption, str) and caption for caption in batch["caption"])
    assert set(batch["label"].tolist()) <= set(range(10))


def test_a_program_that_ends_in_the_middle_of_prefetching_does_not_hang(folder: Path) -> None:
    program = f"""
from gen_dist.data.source import open_stream
from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import DataSpec
from gen_dist.store import StoreError
from tests.support.shards import FIELDS
stream = open_stream(DataSpec(url={str(folder)!r}), pattern="*.tar", fields=FIELDS, seed=0)
running = stream.prefetch((position, 8) for position in range(10**9))
next(running)
raise SystemExit(7)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=300, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stderr == ""
