"""Aspect-ratio buckets: batches of one size, each sample still once an epoch, and less of each picture cut away."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gen_dist.checkpoint import CheckpointError
from gen_dist.data.buckets import Bucketed, buckets, image_sizes, with_buckets
from gen_dist.data.errors import DataError
from gen_dist.data.index.build import Indexed, index_shards, tars, write_manifest
from gen_dist.data.mixture import Mixture
from gen_dist.data.order import Order, Plan
from gen_dist.data.source import check_data, find_data, open_stream
from gen_dist.data.stream import Stream
from gen_dist.job.errors import JobError
from gen_dist.job.load import load_resolved
from gen_dist.job.spec import DataSpec, JobSpec, S3Spec
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Ctx
from gen_dist.recipes.randomness import Draw
from gen_dist.store import open_store
from gen_dist.train.feed import to_device
from gen_dist.train.sizes import bucket_sizes, check_kept
from tests.support.shards import Wanted, png, write_shards

SIZES = buckets(512)
BLOCKS = st.lists(st.integers(1, 20), min_size=1, max_size=30)
# lanes, window, run, runs in a batch: any number of workers that divides lanes and runs may take part
SHAPES = st.tuples(st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(1, 300), st.integers(1, 4), st.integers(1, 12))


def aspects_of(num_samples: int, *, seed: int = 0) -> np.ndarray:
    """Log of width / height as photographs have it: a third each tall, square and wide, and some unknown."""
    draw = np.random.default_rng(seed)
    centre = draw.choice([math.log(2 / 3), 0.0, math.log(3 / 2)], num_samples)
    return np.where(draw.random(num_samples) < 0.05, 0.0, centre + draw.normal(0, 0.15, num_samples))


def order_of(blocks: list[int], shape: tuple[int, int, int, int], *, seed: int = 0) -> Bucketed:
    lanes, window, run, runs = shape
    plan = with_buckets(Plan(lanes, window, run), sizes=SIZES, batch=run * runs)
    inner = Order(seed=seed, num_in_block=np.array(blocks), plan=plan)
    return Bucketed(inner, aspects=aspects_of(inner.num_samples).__getitem__, seed=seed)


@pytest.mark.parametrize("image_px", [8, 16, 64, 80, 256, 512, 1024])
def test_buckets_have_the_square_and_no_more_pixels_than_it(image_px: int) -> None:
    found = buckets(image_px)
    assert (image_px, image_px) in found
    for height_px, width_px in found:
        assert (width_px, height_px) in found
        assert 0.7 * image_px**2 <= height_px * width_px <= image_px**2
        assert max(height_px, width_px) <= 2 * min(height_px, width_px)
    aspects = [width_px / height_px for height_px, width_px in found]
    assert aspects == sorted(set(aspects))
    assert len(found) >= 3


@given(multiple_px=st.sampled_from([1, 8, 16, 32]), times=st.integers(1, 40), max_aspect=st.floats(1.0, 5.0))
def test_buckets_are_multiples_of_what_the_networks_divide_by(multiple_px: int, times: int, max_aspect: float) -> None:
    for size in buckets(multiple_px * times, multiple_px=multiple_px, max_aspect=max_aspect):
        assert all(side_px % multiple_px == 0 for side_px in size)
        assert max(size) <= max_aspect * min(size)


@settings(max_examples=100, deadline=None)
@given(BLOCKS, SHAPES, st.integers(-(2**63), 2**64))
def test_every_sample_comes_once_an_epoch(blocks: list[int], shape: tuple[int, int, int, int], seed: int) -> None:
    order = order_of(blocks, shape, seed=seed)
    size = order.num_samples
    ids = order.ids(0, 3 * size)
    for epoch in range(3):
        assert sorted(ids[epoch * size : (epoch + 1) * size]) == list(range(size))


@settings(max_examples=60, deadline=None)
@given(BLOCKS, SHAPES, st.integers(0, 1000), st.integers(1, 200))
def test_a_range_is_what_its_positions_are_one_by_one(
    blocks: list[int], shape: tuple[int, int, int, int], start: int, count: int
) -> None:
    order = order_of(blocks, shape)
    single, sizes = [], []
    for position in range(start, start + count):
        fresh = order if position % 7 else order_of(blocks, shape)  # a restart: nothing is remembered
        single.append(int(fresh.ids(position, 1)[0]))
        sizes.append(fresh.bucket(position))
    assert order.ids(start, count).tolist() == single
    batch = order.plan.bucket_batch
    for first in range(start // batch * batch, start + count, batch):
        assert len(set(sizes[max(0, first - start) : max(0, first - start + batch)])) <= 1


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=10), min_size=1, max_size=3),
    SHAPES,
    st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)
def test_every_sample_of_a_mixture_comes_once_in_each_epoch_of_its_source(
    sources: list[list[int]], shape: tuple[int, int, int, int], weights: list[float]
) -> None:
    lanes, window, run, runs = shape
    plan = with_buckets(Plan(lanes, window, run), sizes=SIZES, batch=run * runs)
    weights = weights[: len(sources)]
    inner = Mixture(seed=0, sources=[np.array(blocks) for blocks in sources], weights=weights, plan=plan)
    order = Bucketed(inner, aspects=aspects_of(inner.num_samples).__getitem__, seed=0)
    ids, first = order.ids(0, 600), 0
    for blocks in sources:
        size = sum(blocks)
        own = ids[(ids >= first) & (ids < first + size)]
        for begin in range(0, len(own), size):
            part = own[begin : begin + size]
            assert len(set(part.tolist())) == len(part)
        first += size


@pytest.fixture(scope="module")
def photographs() -> Bucketed:
    return order_of([100] * 600, (12, 5000, 16, 12))  # 312 batches of 192 in an epoch of 60,000


def test_most_batches_hold_one_bucket_and_the_others_near_ones(photographs: Bucketed) -> None:
    aspects, batch = aspects_of(photographs.num_samples), photographs.plan.bucket_batch
    log_aspect = np.log([width_px / height_px for height_px, width_px in SIZES])
    pure, distance, square = [], [], []
    for first in range(0, photographs.num_samples - batch, batch):
        own = aspects[photographs.ids(first, batch)]
        nearest = np.abs(own[:, None] - log_aspect).argmin(axis=1)
        pure.append((nearest == SIZES.index(photographs.bucket(first))).mean())
        height_px, width_px = photographs.bucket(first)
        distance.append(np.abs(own - math.log(width_px / height_px)).mean())
        square.append(np.abs(own).mean())
    assert np.mean(np.array(pure) == 1.0) > 0.6
    assert np.mean(pure) > 0.85
    assert np.mean(distance) < 0.35 * np.mean(square)  # log of the share that is kept, against squares


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_a_worker_meets_the_samples_that_it_would_meet_without_buckets(photographs: Bucketed, world_size: int) -> None:
    """So it reads no more; and all workers have the same size at each step, whatever their number."""
    run, batch = photographs.plan.run, photographs.plan.bucket_batch
    count = photographs.num_samples // batch * batch
    rank = (np.arange(count) // run) % world_size
    plain, grouped = (order.ids(0, count) for order in (photographs.inner, photographs))
    assert (plain != grouped).mean() > 0.9
    for number in range(world_size):
        assert sorted(plain[rank == number]) == sorted(grouped[rank == number])


def test_neighbouring_batches_are_of_many_sizes(photographs: Bucketed) -> None:
    batch = photographs.plan.bucket_batch
    sizes = [photographs.bucket(first * batch) for first in range(64)]
    changes = sum(one != other for one, other in itertools.pairwise(sizes))
    assert changes > 32
    assert set(sizes) >= {(512, 512), (640, 384), (384, 640)}


def test_another_seed_puts_batches_in_another_order() -> None:
    sizes = [
        [order_of([100] * 30, (2, 3000, 8, 4), seed=seed).bucket(32 * batch) for batch in range(30)] for seed in (0, 1)
    ]
    assert sizes[0] != sizes[1]


def test_a_plan_comes_back_from_a_checkpoint(photographs: Bucketed) -> None:
    assert Plan(**json.loads(json.dumps(asdict(photographs.plan)))) == photographs.plan


def test_one_size_leaves_everything_a_square() -> None:
    plan = with_buckets(Plan(2, 100, 4), sizes=[(16, 16)], batch=8)
    inner = Order(seed=0, num_in_block=np.array([50]), plan=plan)
    order = Bucketed(inner, aspects=aspects_of(50).__getitem__, seed=0)
    assert {order.bucket(position) for position in range(200)} == {(16, 16)}


BATCH, WORKERS, MICRO = 12, 2, 2


def gradient(width_px: int, height_px: int) -> Image.Image:
    """Red grows from left to right over the whole picture, green from top to bottom."""
    across, down = np.meshgrid(np.linspace(0, 255, width_px), np.linspace(0, 255, height_px))
    return Image.fromarray(np.stack([across, down, np.zeros_like(across)], axis=2).round().astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures from very tall to very wide, a few small ones among them, with the index that tells of their sizes."""
    path = tmp_path_factory.mktemp("odd")
    draw = np.random.default_rng(0)
    for shard in range(4):
        with wds.TarWriter(str(path / f"train-{shard}.tar")) as tar:
            for number in range(shard * 45, shard * 45 + 45):
                aspect = float(np.exp(draw.choice([-0.5, 0.0, 0.5]) + draw.normal(0, 0.15)))
                width_px, height_px = max(1, round(40 * aspect**0.5)), max(1, round(40 / aspect**0.5))
                if number % 20 == 7:
                    width_px, height_px = [(1, 1), (200, 6), (5, 9)][number % 3]
                picture = png(gradient(width_px, height_px))
                tar.write({"__key__": f"{number:04d}", "png": picture, "txt": f"caption {number}"})
    store = open_store(str(path), S3Spec())
    answers = index_shards(store, tars(store, ["*.tar"]), look=True, again=False, workers=1)
    write_manifest(store, [answer for answer in answers if isinstance(answer, Indexed)])
    return path


FIELDS = {"image": Wanted("image", (3, 32, 32)), "half": Wanted("image", (3, 16, 16)), "caption": Wanted("caption")}


def opened(folder: Path, *, sizes: list[tuple[int, int]] | None = None) -> Stream:
    spec = DataSpec(url=str(folder), aspect_buckets=True)
    sizes = image_sizes(FIELDS, multiple_px=4) if sizes is None else sizes
    data = find_data(spec)
    plan = data.plan(workers=WORKERS, shuffle_bytes=1 << 20, run=MICRO, buckets=sizes, batch=BATCH if sizes else 0)
    return open_stream(spec, fields=FIELDS, seed=0, data=data, plan=plan)


def test_a_stream_gives_each_batch_one_size_to_all_workers_and_each_sample_once(folder: Path) -> None:
    with opened(folder) as stream, opened(folder) as again:
        seen, shapes = [], set()
        for first in range(0, 180, BATCH):
            parts = [stream.batch(first + part, MICRO) for part in range(0, BATCH, MICRO)]
            assert len({part["image"].shape for part in parts}) == 1
            height_px, width_px = parts[0]["image"].shape[2:]
            assert parts[0]["half"].shape[2:] == (height_px // 2, width_px // 2)
            shapes.add((height_px, width_px))
            seen += [number for part in parts for number in part["sample_id"].tolist()]
            assert all(part["weight"].all() for part in parts)
            assert parts[1]["caption"] == [f"caption {number}" for number in parts[1]["sample_id"].tolist()]
        assert sorted(seen) == list(range(180))
        assert len(shapes) >= 3
        for position, batch in again.prefetch([(100, 2), (6, 2), (178, 2)]):  # a resumed run
            assert torch.equal(batch["image"], stream.batch(position, 2)["image"])


def test_more_of_each_picture_is_kept_than_in_a_square(folder: Path) -> None:
    def kept(sizes: list[tuple[int, int]]) -> float:
        """Mean share of the area of pictures, by how much of their gradients is left."""
        with opened(folder, sizes=sizes) as stream:
            shares: list[float] = []
            for first in range(0, 180, BATCH):
                image = stream.batch(first, BATCH)["image"].float()
                spans = [image[:, channel].amax((1, 2)) - image[:, channel].amin((1, 2)) for channel in (0, 1)]
                shares += (spans[0] * spans[1] / 255**2).tolist()
        return float(np.mean(shares))

    square, bucketed = kept([]), kept(image_sizes(FIELDS, multiple_px=4))
    assert 1 - bucketed < 0.75 * (1 - square)


def test_a_request_over_two_batches_is_an_error_of_the_program(folder: Path) -> None:
    with opened(folder) as stream, pytest.raises(ValueError, match="several batches"):
        stream.batch(BATCH - 1, 2)


def test_data_without_sizes_and_jobs_that_cannot_have_buckets_are_told_so(folder: Path, tmp_path: Path) -> None:
    write_shards(tmp_path, num_samples=4, per_shard=2)
    with pytest.raises(DataError, match=r"train-00000.tar: .*needs the sizes of pictures.*; run `gen-dist data index"):
        check_data(DataSpec(url=str(tmp_path), aspect_buckets=True), fields={"caption": Wanted("caption")})
    check_data(DataSpec(url=str(folder), aspect_buckets=True), fields={"caption": Wanted("caption")})
    with pytest.raises(JobError, match=r"data.aspect_buckets=true: recipe 'dcgan' learns at one size alone; write"):
        job_of("dcgan", {})
    small = job_of("ddpm", {"image_px": 4, "channels": [16, 16, 16]})
    with pytest.raises(DataError, match="4 x 4 px has no other shape of multiples of 4 px"):
        bucket_sizes(small, catalog.build(small.recipe, small.model))


def test_a_checkpoint_holds_the_buckets_and_their_batch(tmp_path: Path, photographs: Bucketed) -> None:
    job = job_of("ddpm", {})
    check_kept(replace(photographs.plan, bucket_batch=BATCH), job, where=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"batches of 192 images, and train.global_batch_images is 12; put 192"):
        check_kept(photographs.plan, job, where=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"written with data.aspect_buckets=false, the job now says true"):
        check_kept(Plan(1, 1, 1), job, where=str(tmp_path))


def job_of(recipe: str, model: dict[str, object]) -> JobSpec:
    train = {"total_images": 120, "global_batch_images": BATCH, "micro_batch_images": MICRO}
    data = {"url": "shards", "aspect_buckets": True}
    return load_resolved({"name": "x", "recipe": recipe, "data": data, "model": model, "train": train})


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("latent_diffusion", {"autoencoder_channels": [16], "denoiser_channels": [64], "text_width": 16}),
        ("latent_diffusion", {"autoencoder_channels": [16, 16], "denoiser_channels": [64, 64], "patch_px": 2}),
        ("ddpm", {"channels": [16, 16]}),
    ],
)
def test_recipes_that_say_so_learn_at_every_bucket(folder: Path, name: str, model: dict[str, object]) -> None:
    job = job_of(name, {"image_px": 32, **model})
    recipe = catalog.build(job.recipe, job.model)
    sizes = bucket_sizes(job, recipe)
    data = find_data(DataSpec(url=str(folder)))
    plan = data.plan(workers=1, shuffle_bytes=1 << 20, run=MICRO, buckets=sizes, batch=BATCH)
    nets = recipe.networks()
    learned = set()
    with open_stream(DataSpec(url=str(folder)), fields=recipe.batch, seed=0, data=data, plan=plan) as stream:
        for clock in (Clock(0, 0), Clock(30_000, 1)):  # of latent diffusion, both phases
            for first in range(0, 96, BATCH):
                batch = to_device(stream.batch(first, MICRO), torch.device("cpu"))
                learned.add(batch["image"].shape[2:])
                draw = Draw(seed=0, first=first, count=MICRO)
                ctx = Ctx(nets=nets, frozen={}, clock=clock, draw=draw, device=torch.device("cpu"))
                loss = torch.stack(list(recipe.phases(clock)[0].loss(ctx, batch).values())).sum()
                loss.backward()
                assert torch.isfinite(loss)
    assert len(learned) >= 3
