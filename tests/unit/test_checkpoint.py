"""A checkpoint is there whole or not at all, holds no pickle, and gives any slice to any number of workers."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from gen_dist.checkpoint import (
    CheckpointError,
    FencedError,
    Piece,
    Saver,
    Slice,
    begin_attempt,
    candidates,
    open_checkpoint,
)
from gen_dist.checkpoint.layout import PAGE_BYTES, plan
from gen_dist.checkpoint.piece import DTYPES, PieceSpec
from gen_dist.store.local import LocalStore
from tests.support import saves
from tests.support.saves import Events, check_whole, commit, group, newest, state


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "checkpoints")


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_what_is_saved_by_any_number_of_workers_is_read_back_bit_by_bit(store: LocalStore, world_size: int) -> None:
    savers = group(store, attempt=begin_attempt(store), world_size=world_size)
    name = commit(savers, 640)
    assert candidates(store) == [name] == ["images-000000000640.a000001"]
    found = newest(store)
    check_whole(found)
    assert (found.manifest.step, found.manifest.world_size, found.manifest.parent) == (10, world_size, None)
    assert found.manifest.facts == saves.FACTS
    commit(savers, 1280)
    assert newest(store).manifest.parent == name


def test_any_slice_of_a_tensor_is_read(store: LocalStore) -> None:
    commit(group(store, attempt=1, world_size=3, max_file_bytes=64), 64)
    found, key = newest(store), "weight/net/nets.net.w"
    flat = state(64)[key].flatten()
    slices = [
        Slice(key, start, numel) for start, numel in itertools.product(range(36), range(36)) if start + numel <= 35
    ]
    for wanted, value in zip(slices, found.read_all(slices), strict=True):
        assert torch.equal(value, flat[wanted.start : wanted.start + (wanted.numel or 0)])
    assert torch.equal(found.read(key, 30), flat[30:])
    for start, numel in [(-1, 2), (30, 6), (36, 0)]:
        with pytest.raises(CheckpointError, match=r"nets\.net\.w has 35 elements.*another model"):
            found.read(key, start, numel)
    with pytest.raises(CheckpointError, match="no tensor 'weight/net/other'; the checkpoint is of another model"):
        found.read("weight/net/other")


def test_only_the_bytes_of_a_slice_are_read_and_neighbours_with_one_request(store: LocalStore) -> None:
    commit(group(store, attempt=1, world_size=2), 64)
    reader = LocalStore(Path(store.url))
    found = newest(reader)
    before = reader.stats.received_bytes
    found.section("average/net")
    assert reader.stats.received_bytes - before == 40 * 4


SPECS = st.lists(
    st.tuples(st.sampled_from(sorted(DTYPES)), st.integers(0, 50), st.integers(0, 5)), min_size=1, max_size=12
)


@settings(max_examples=60)
@given(drawn=SPECS, max_file_bytes=st.integers(8, 400))
def test_the_files_of_a_worker_are_safetensors_as_others_read_them(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, int, int]], max_file_bytes: int
) -> None:
    held = []
    for number, (dtype, numel, start) in enumerate(drawn):
        values = torch.randint(0, 100, (numel,)).to(torch.uint8 if dtype == "BOOL" else DTYPES[dtype])
        values = (values > 50) if dtype == "BOOL" else values
        held.append(Piece(f"weight/{number}", (numel + start,), start, values))
    store = LocalStore(tmp_path_factory.mktemp("store"))
    rest = [Piece(piece.key, piece.shape, 0, torch.zeros(piece.start, dtype=piece.values.dtype)) for piece in held]
    savers = group(store, attempt=1, world_size=2, max_file_bytes=max_file_bytes)
    for saver, some in zip(savers, [held, rest], strict=True):
        saver.save(64, 1, some, {})
    assert all(saver.flush(300) for saver in savers)
    found = newest(store)
    folder = Path(store.url) / found.name
    parts = [(name, key, value) for name in found.manifest.files for key, value in load_file(folder / name).items()]
    for piece in held:
        ours = [
            (int(key.rpartition("@")[2]), value)
            for name, key, value in parts
            if name.startswith("rank00000") and key.startswith(f"{piece.key}@")
        ]
        whole = torch.cat([value for _, value in sorted(ours, key=lambda part: part[0])]) if ours else piece.values
        assert torch.equal(whole.float(), piece.values.float())
        assert torch.equal(found.read(piece.key, piece.start).float(), piece.values.float())
    widest = max(entry.dtype.itemsize for entry in found.manifest.tensors.values())
    headers = 8 + PAGE_BYTES + 200 * 2 * len(drawn) * 10  # padded to a whole page
    assert all(file.size_bytes <= max(max_file_bytes, widest) + headers for file in found.manifest.files.values())


def test_fragments_are_aligned_and_files_bounded() -> None:
    specs = [
        PieceSpec("a/x", (1001,), 0, 1001, torch.uint8),
        PieceSpec("a/y", (1001,), 0, 1001, torch.float32),
        PieceSpec("a/z", (3,), 0, 3, torch.int64),
    ]
    layout = plan(specs, rank=3, max_file_bytes=1000)
    assert [file.name for file in layout.files][:2] == ["rank00003.safetensors", "rank00003-00001.safetensors"]
    assert all(file.data_bytes <= 1000 and len(file.header) % PAGE_BYTES == 0 for file in layout.files)
    for file in layout.files:
        assert all(slot.offset % specs[slot.piece].dtype.itemsize == 0 for slot in file.slots)
    assert sum(file.data_bytes for file in layout.files) == 1001 + 4004 + 24


def test_a_save_holds_the_state_of_its_moment_whatever_training_does_next(store: LocalStore) -> None:
    go_on = threading.Event()
    saver = Saver(store, attempt=1, rank=0, world_size=1, at=lambda stage: stage == "file" and go_on.wait(300))
    tensors = state(64)
    saver.save(64, 1, saves.pieces(tensors, rank=0, world_size=1), {})
    for value in tensors.values():
        value.zero_()
    go_on.set()
    assert saver.flush(300)
    check_whole(newest(store))


def test_what_lasts_is_copied_beside_the_training_which_waits_before_it_changes(store: LocalStore) -> None:
    go_on = threading.Event()
    saver = Saver(store, attempt=1, rank=0, world_size=1, at=lambda stage: stage == "copy" and go_on.wait(300))
    tensors = state(64)
    lasts = {key: not key.startswith(("buffer/", "recipe/")) for key in tensors}
    held = [replace(one, lasting=lasts[one.key]) for one in saves.pieces(tensors, rank=0, world_size=1)]
    saver.save(64, 1, held, {})
    for key, value in tensors.items():
        if not lasts[key]:
            value.zero_()
    assert not saver.is_settled
    threading.Timer(0.2, go_on.set).start()
    saver.settle()
    assert saver.is_settled
    assert 0.1 < saver.snapshot_s < 30
    for value in tensors.values():
        value.zero_()
    assert saver.flush(300)
    check_whole(newest(store))


@pytest.mark.parametrize("broken", [0, 1])
def test_a_copy_that_fails_holds_no_training_and_costs_the_checkpoint(store: LocalStore, broken: int) -> None:
    events = Events()

    def fail(stage: str) -> None:
        if stage == "copy":
            raise RuntimeError("CUDA error")

    savers = [Saver(store, attempt=1, rank=rank, world_size=2, on_event=events) for rank in range(2)]
    savers[broken] = Saver(store, attempt=1, rank=broken, world_size=2, on_event=events, at=fail)
    saves.save(savers, 64)
    for saver in savers:
        saver.settle()
    assert not savers[0].flush(30), "the leader is told, and does not wait for what never comes"
    assert "CUDA error" in events.of("checkpoint_missed")[0]["warning"]
    assert not candidates(store)


def test_training_waits_for_no_write_and_a_second_save_waits_for_the_first(store: LocalStore) -> None:
    go_on = threading.Event()
    saver = Saver(store, attempt=1, rank=0, world_size=1, at=lambda stage: stage == "file" and go_on.wait(300))
    saves.save([saver], 64)  # returns although nothing can be written
    assert not saver.flush(0.05)
    assert candidates(store) == []
    threading.Timer(0.3, go_on.set).start()
    started_s = time.monotonic()
    saves.save([saver], 128)
    assert time.monotonic() - started_s > 0.2
    assert 0.2 < saver.waited_s < 30
    assert saver.flush(300)
    assert [open_checkpoint(store, name).manifest.images for name in candidates(store)] == [128, 64]


def test_a_second_save_at_the_same_point_is_the_first_one(store: LocalStore) -> None:
    events = Events()
    savers = group(store, attempt=1, on_event=events)
    commit(savers, 64)
    commit(savers, 64)
    assert len(events.of("checkpoint")) == 1
    told = events.of("checkpoint")[0]
    assert (told["name"], told["images"], told["attempt"]) == ("images-000000000064.a000001", 64, 1)
    assert told["size_bytes"] == newest(store).manifest.contents.size_bytes


def test_a_store_in_trouble_is_told_alarmed_and_never_raised_into_training(store: LocalStore) -> None:
    events = Events()
    saver = Saver(store, attempt=1, rank=0, world_size=1, on_event=events, alarm_after=2, patience_s=0.1)
    folder = Path(store.url)
    folder.mkdir()
    for images in (64, 128, 192):
        (folder / f"images-{images:012d}.a000001").write_bytes(b"a file where a folder should be")
        saves.save([saver], images)
        assert not saver.flush(300)
    assert [facts["missed_in_a_row"] for facts in events.of("checkpoint_missed")] == [1, 2, 3]
    assert len(events.of("checkpoint_alarm")) == 2
    assert "mend the store: " in events.of("checkpoint_alarm")[0]["warning"]
    commit([saver], 256)
    assert saver.missed_in_a_row == 0
    assert [open_checkpoint(store, name).manifest.images for name in candidates(store)] == [256]


def test_trouble_that_passes_only_delays_a_commit(store: LocalStore) -> None:
    events = Events()
    saver = Saver(store, attempt=1, rank=0, world_size=1, on_event=events, patience_s=60)
    obstacle = Path(store.url) / "images-000000000064.a000001"
    obstacle.parent.mkdir()
    obstacle.touch()
    threading.Timer(0.3, obstacle.unlink).start()
    commit([saver], 64)
    assert [kind for kind, _ in events] == ["checkpoint"]
    check_whole(newest(store))


@pytest.mark.parametrize(
    ("stage", "in_the_way"),
    [("file", "rank00001.safetensors"), ("done", "done/rank00001.json")],
    ids=["its files cannot be written", "its word that they are cannot"],
)
def test_the_leader_gives_up_as_soon_as_a_worker_does_and_says_which(
    store: LocalStore, stage: str, in_the_way: str
) -> None:
    events = Events()
    savers = group(store, attempt=1, on_event=events)
    obstacle = Path(store.url) / "images-000000000064.a000001" / in_the_way

    def clog(now: str) -> None:
        if now == stage:
            obstacle.mkdir(parents=True, exist_ok=True)
        elif now == "give up":
            obstacle.rmdir()

    savers[1] = Saver(store, attempt=1, rank=1, world_size=2, patience_s=1.0, at=clog)
    saves.save(savers, 64)
    assert [saver.flush(60) for saver in savers] == [False, False]
    assert "worker 1: " in events.of("checkpoint_missed")[0]["warning"]
    assert candidates(store) == []


def test_a_listener_that_fails_hurts_nobody(store: LocalStore) -> None:
    def listener(kind: str, **facts: Any) -> None:
        raise RuntimeError("the record is down")

    commit([Saver(store, attempt=1, rank=0, world_size=1, on_event=listener)], 64)
    check_whole(newest(store))


def test_a_group_that_was_replaced_is_told_at_its_next_save(store: LocalStore) -> None:
    events = Events()
    savers = group(store, attempt=begin_attempt(store), on_event=events)
    commit(savers, 64)
    assert begin_attempt(store) == 2
    saves.save(savers, 128)
    assert [saver.flush(300) for saver in savers] == [False, False]
    for saver in savers:
        assert saver.is_fenced
        with pytest.raises(FencedError, match="attempt 2 has begun, this is attempt 1"):
            saver.save(192, 3, [], {})
    assert len(events.of("fenced")) == 1
    assert [open_checkpoint(store, name).manifest.images for name in candidates(store)] == [64]


@pytest.mark.parametrize(
    ("pieces", "facts", "says"),
    [
        ([Piece("w/x", (3,), 0, torch.zeros(3, dtype=torch.complex64))], {}, "complex64 has no name in safetensors"),
        (
            [Piece("w/x", (3,), 1, torch.zeros(3))],
            {},
            "elements 1 to 4 of a tensor of 3; give parts .* no padding",
        ),
        ([Piece("", (3,), 0, torch.zeros(3))], {}, "a piece without a key"),
        ([], {"when": time}, "facts of the checkpoint at 64 images: .*; give JSON alone"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(
    store: LocalStore, pieces: list[Piece], facts: dict[str, Any], says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        Saver(store, attempt=1, rank=0, world_size=1).save(64, 1, pieces, facts)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([(0, 4), (5, 5)], "w/x: elements 4 to 5 are missing"),
        ([(0, 4), (3, 7)], "w/x: elements 3 to 4 are in rank00000.safetensors and in rank00001.safetensors"),
        ([(0, 4), (4, 5)], "w/x: elements 9 to 10 are missing"),
    ],
)
def test_fragments_that_are_not_the_whole_tensor_once_are_no_checkpoint(
    store: LocalStore, parts: list[tuple[int, int]], says: str
) -> None:
    events = Events()
    savers = group(store, attempt=1, on_event=events)
    for saver, (start, numel) in zip(savers, parts, strict=True):
        saver.save(64, 1, [Piece("w/x", (10,), start, torch.zeros(numel))], {})
    assert [saver.flush(300) for saver in savers] == [False, True]
    assert says in events.of("checkpoint_missed")[0]["warning"]
    assert candidates(store) == []


def test_workers_with_different_networks_are_no_checkpoint(store: LocalStore) -> None:
    events = Events()
    savers = group(store, attempt=1, on_event=events)
    for saver, shape in zip(savers, [(2, 3), (3, 2)], strict=True):
        saver.save(64, 1, [Piece("w/x", shape, 0, torch.zeros(3))], {})
    assert [saver.flush(300) for saver in savers] == [False, True]
    assert "(2, 3) on one worker" in events.of("checkpoint_missed")[0]["warning"]
