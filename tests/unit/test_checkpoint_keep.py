"""Retention keeps what it must, removes the rest, and converges wherever it was stopped."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_dist.checkpoint import (
    CheckpointError,
    Keep,
    Name,
    begin_attempt,
    candidates,
    note_base,
    open_checkpoint,
    pin,
    pinned,
    prune,
    unpin,
)
from gen_dist.checkpoint.keep import superfluous
from gen_dist.store.local import PART, STALE_S, LocalStore
from tests.support.saves import Events, check_whole, commit, group

LATER = datetime.now(UTC) + timedelta(hours=2)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "checkpoints")


def kept(store: LocalStore) -> list[int]:
    return sorted(open_checkpoint(store, name).manifest.images for name in candidates(store))


def folders(store: LocalStore) -> list[str]:
    return sorted(path.name for path in Path(store.url).glob("images-*"))


def line_of(*images: int) -> list[Name]:
    return sorted((Name(count, 1) for count in images), reverse=True)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (Keep(last=1), [640]),
        (Keep(last=3), [512, 576, 640]),
        (Keep(last=1, every_images=200), [256, 448, 640]),
        (Keep(last=1, best=2, metric="psnr"), [64, 128, 640]),
        (Keep(last=1, best=1, metric="psnr", highest_is_best=False), [576, 640]),
        (Keep(last=99), list(range(64, 641, 64))),
    ],
)
def test_what_a_policy_keeps(keep: Keep, left: list[int]) -> None:
    line = line_of(*range(64, 641, 64))
    scores = {name: -float(name.images) for name in line if name.images != 640}
    gone = superfluous(line, [], keep, pins=(), scores=scores)
    assert sorted(name.images for name in line if name not in gone) == left


def test_the_newest_stays_whatever_the_policy_says() -> None:
    assert superfluous(line_of(64), [], Keep(last=0), pins=(), scores={}) == {}
    assert superfluous([], [Name(64, 1)], Keep(last=0), pins=(), scores={}) == {}


def test_a_pin_outweighs_the_policy() -> None:
    line = line_of(64, 128, 192)
    assert set(superfluous(line, [], Keep(last=1), pins=[str(Name(64, 1))], scores={})) == {Name(128, 1)}


def test_a_dead_branch_goes_once_the_run_has_passed_it() -> None:
    dead = [Name(96, 1), Name(640, 1)]
    gone = superfluous([Name(128, 2)], dead, Keep(last=1), pins=(), scores={})
    assert gone == {Name(96, 1): "a later attempt went back behind it"}


@given(
    images=st.sets(st.integers(1, 300), min_size=1), last=st.integers(1, 5), every=st.integers(0, 60), rest=st.data()
)
def test_removing_step_by_step_leaves_what_removing_at_the_end_leaves(
    images: set[int], last: int, every: int, rest: st.DataObject
) -> None:
    """What is kept of every so many images does not depend on how often retention ran."""
    keep = Keep(last=last, every_images=every)
    there: list[Name] = []
    for count in sorted(images):
        there.append(Name(count, 1))
        if rest.draw(st.booleans()):
            gone = superfluous(sorted(there, reverse=True), [], keep, pins=(), scores={})
            there = [name for name in there if name not in gone]
    gone = superfluous(sorted(there, reverse=True), [], keep, pins=(), scores={})
    at_once = superfluous(line_of(*images), [], keep, pins=(), scores={})
    assert {name for name in there if name not in gone} == {name for name in line_of(*images) if name not in at_once}


def test_a_saver_keeps_the_newest_and_tells_what_it_removed(store: LocalStore) -> None:
    events = Events()
    savers = group(store, attempt=begin_attempt(store), keep=Keep(last=2), on_event=events)
    for images in (64, 128, 192, 256):
        commit(savers, images)
    assert kept(store) == [192, 256]
    assert folders(store) == [str(Name(192, 1)), str(Name(256, 1))]
    assert [facts["names"] for facts in events.of("checkpoints_removed")] == [[str(Name(64, 1))], [str(Name(128, 1))]]
    assert all(facts["size_bytes"] > 0 for facts in events.of("checkpoints_removed"))


def test_the_best_stay(store: LocalStore) -> None:
    savers = group(store, attempt=begin_attempt(store), keep=Keep(last=1, best=1, metric="psnr"))
    for images, score in [(64, 3.0), (128, 9.0), (192, 1.0), (256, float("nan"))]:
        commit(savers, images, facts={"scores": {"psnr": score}} if score == score else {})
    assert kept(store) == [128, 256]


def test_a_dry_run_tells_names_and_bytes_and_removes_nothing(store: LocalStore) -> None:
    savers = group(store, attempt=begin_attempt(store))
    for images in (64, 128):
        commit(savers, images)
    size_bytes = sum(path.stat().st_size for path in Path(store.url, str(Name(64, 1))).rglob("*") if path.is_file())
    told = prune(store, Keep(last=1), dry_run=True)
    assert [(one.name, one.size_bytes, one.why) for one in told] == [
        (Name(64, 1), size_bytes, "not among those to keep")
    ]
    assert kept(store) == [64, 128]
    assert prune(store, Keep(last=1)) == told
    assert kept(store) == [128]
    assert prune(store, Keep(last=1)) == []


def test_what_was_never_committed_is_swept_when_nobody_can_commit_it_any_more(store: LocalStore) -> None:
    first = group(store, attempt=begin_attempt(store))
    commit(first, 64)
    store.write(f"{Name(128, 1)}/rank00000.safetensors", b"torn")
    second = begin_attempt(store)
    note_base(store, second, str(Name(64, 1)))
    assert prune(store, Keep(last=9)) == []  # the first group may still be alive
    assert [one.why for one in prune(store, Keep(last=9), now=LATER)] == ["never committed"]
    assert folders(store) == [str(Name(64, 1))]


def test_a_missed_save_of_this_group_is_swept_after_the_next_commit_and_not_before(store: LocalStore) -> None:
    savers = group(store, attempt=begin_attempt(store), keep=Keep(last=9))
    commit(savers, 64)
    store.write(f"{Name(128, 1)}/rank00000.safetensors", b"missed")
    store.write(f"{Name(256, 1)}/rank00000.safetensors", b"under way")
    commit(savers, 192)
    assert folders(store) == [str(Name(64, 1)), str(Name(192, 1)), str(Name(256, 1))]


def test_what_a_killed_writer_left_half_written_is_swept_although_no_listing_shows_it(store: LocalStore) -> None:
    savers = group(store, attempt=begin_attempt(store))
    commit(savers, 64)
    root, old_s = Path(store.url), time.time() - 2 * STALE_S
    litter = [f"images-{images:012d}.a000000/.rank00000.safetensors.0123{PART}" for images in (32, 48, 64)]
    litter += [
        f"images-{64:012d}.a000001/.rank00000.safetensors.0123{PART}",
        f"images-{32:012d}.a000000/done/.r.1{PART}",
    ]
    for name in litter:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(bytes(1000))
        if "048" not in name:
            os.utime(root / name, (old_s, old_s))
    assert prune(store, Keep(), dry_run=True) == []
    assert len(list(root.rglob(f".*{PART}"))) == len(litter)
    prune(store, Keep())
    assert [path.parent.name for path in root.rglob(f".*{PART}")] == [f"images-{48:012d}.a000000"], "may be at work"
    assert folders(store) == [f"images-{48:012d}.a000000", f"images-{64:012d}.a000001"]
    check_whole(open_checkpoint(store, candidates(store)[0]))


def test_nothing_of_a_higher_attempt_is_touched(store: LocalStore) -> None:
    savers = group(store, attempt=begin_attempt(store))
    for images in (64, 128):
        commit(savers, images)
    begin_attempt(store)
    store.write(f"{Name(96, 2)}/rank00000.safetensors", b"under way")
    assert prune(store, Keep(last=1), attempt=1, now=LATER) == []
    assert kept(store) == [64, 128]
    assert not list(Path(store.url).glob("*/TOMBSTONE.json"))


def test_a_group_that_begins_meanwhile_stops_it(store: LocalStore) -> None:
    savers = group(store, attempt=begin_attempt(store))
    for images in (64, 128, 192):
        commit(savers, images)
    removed = prune(store, Keep(last=1), at=lambda stage: begin_attempt(store) if stage == "tombstone" else None)
    assert removed == []
    assert kept(store) == [64, 128, 192]


def test_a_pin_set_meanwhile_stops_it(store: LocalStore) -> None:
    savers = group(store, attempt=begin_attempt(store))
    for images in (64, 128, 192):
        commit(savers, images)
    wanted = str(Name(64, 1))

    def register(stage: str) -> None:
        if stage == "tombstone" and wanted not in pinned(store):
            pin(store, wanted, by="model-3")

    assert [one.name.images for one in prune(store, Keep(last=1), at=register)] == [128]
    assert kept(store) == [64, 192]
    unpin(store, by="model-3")
    assert [one.name.images for one in prune(store, Keep(last=1))] == [64]


def test_what_is_being_removed_cannot_be_pinned(store: LocalStore) -> None:
    commit(group(store, attempt=1), 64)
    name = Name(64, 1)
    store.write(name.tombstone, b"{}")
    with pytest.raises(CheckpointError, match="not there, or being removed; pin another"):
        pin(store, str(name), by="model-3")
    with pytest.raises(CheckpointError, match="not there, or being removed; pin another"):
        pin(store, str(Name(128, 1)), by="model-3")
    assert pinned(store) == set()
    with pytest.raises(CheckpointError, match="is being removed; take a newer checkpoint"):
        open_checkpoint(store, str(name))


def test_a_pin_that_cannot_be_read_stops_all_removing(store: LocalStore) -> None:
    savers = group(store, attempt=1)
    for images in (64, 128):
        commit(savers, images)
    for text in (b"{", b"{}"):
        store.write("pins/model-3.json", text)
        with pytest.raises(CheckpointError, match=r"pins/model-3\.json"):
            prune(store, Keep(last=1))
    assert kept(store) == [64, 128]


def stages_of_a_prune(folder: Path) -> list[str]:
    store = LocalStore(folder)
    stages: list[str] = []
    for images in (64, 128, 192):
        commit(group(store, attempt=1), images)
    prune(store, Keep(last=1), at=stages.append)
    return stages


class StoppedError(Exception):
    """As if the process had ended here."""


def test_stopped_before_any_step_it_converges_and_never_leaves_a_torn_checkpoint(tmp_path: Path) -> None:
    stages = stages_of_a_prune(tmp_path / "all")
    assert len(stages) == 2 * (1 + 1 + 2 + 2 + 1)  # tombstone, manifest, two files, two `done`, tombstone
    for number in range(len(stages)):
        store = LocalStore(tmp_path / str(number))
        for images in (64, 128, 192):
            commit(group(store, attempt=1), images)
        left = iter(range(number))

        def stop(stage: str, left: object = left) -> None:
            if next(left, None) is None:  # type: ignore[call-overload]
                raise StoppedError

        with pytest.raises(StoppedError):
            prune(store, Keep(last=1), at=stop)
        for name in candidates(store):
            check_whole(open_checkpoint(store, name))
        prune(store, Keep(last=1))
        assert folders(store) == [str(Name(192, 1))]
        check_whole(open_checkpoint(store, str(Name(192, 1))))
