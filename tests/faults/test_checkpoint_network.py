"""T4: faults of a network delay a commit, are told where they last, and are never raised into training."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from gen_dist.checkpoint import begin_attempt, candidates, open_checkpoint
from gen_dist.store.s3 import S3Store
from tests.support import saves
from tests.support.fault_proxy import FaultProxy, Plan
from tests.support.saves import Events, check_whole, commit, group, newest

ROUGH = Plan(cut=0.2, reset=0.1, refuse=0.2, slow=0.1, lose=0.2, slow_s=0.05, seed=5)
CALM = Plan()


def test_saves_through_a_rough_network_arrive_whole(bucket: S3Store, proxy: FaultProxy) -> None:
    savers = group(bucket, attempt=begin_attempt(bucket), world_size=3, max_file_bytes=256)
    proxy.plan = ROUGH
    for images in (64, 128, 192):
        commit(savers, images)
    assert proxy.counts["refuse"] > 3
    assert proxy.counts["lose"] > 3
    for name in candidates(bucket):
        check_whole(open_checkpoint(bucket, name))
    assert proxy.counts["cut"] + proxy.counts["reset"] > 3
    proxy.plan = CALM
    assert len(candidates(bucket)) == 3


def test_an_outage_delays_a_commit_and_training_goes_on(bucket: S3Store, proxy: FaultProxy) -> None:
    events = Events()
    savers = group(bucket, attempt=begin_attempt(bucket), on_event=events)
    commit(savers, 64)
    proxy.plan = Plan(refuse=1.0)
    started_s = time.monotonic()
    saves.save(savers, 128)
    assert time.monotonic() - started_s < 1.0
    assert not savers[0].flush(1.5)
    assert [facts["images"] for facts in events.of("checkpoint")] == [64]
    proxy.plan = CALM
    assert all(saver.flush(300) for saver in savers)
    assert [kind for kind, _ in events] == ["checkpoint", "checkpoint"]
    check_whole(newest(bucket))
    assert newest(bucket).manifest.images == 128


def test_an_outage_that_outlasts_patience_is_alarmed_and_survived(bucket: S3Store, proxy: FaultProxy) -> None:
    events = Events()
    savers = group(bucket, attempt=begin_attempt(bucket), on_event=events, patience_s=3.0, alarm_after=2)
    commit(savers, 64)
    proxy.plan = Plan(refuse=1.0)
    for images in (128, 192):
        saves.save(savers, images)
        assert [saver.flush(300) for saver in savers] == [False, False]
    kinds = [kind for kind, _ in events]
    assert kinds == ["checkpoint", "checkpoint_missed", "checkpoint_missed", "checkpoint_alarm"]
    assert "SlowDown" in events.of("checkpoint_alarm")[0]["warning"]
    proxy.plan = CALM
    commit(savers, 256)
    assert newest(bucket).manifest.parent == "images-000000000064.a000001"
    check_whole(newest(bucket))


def test_a_save_that_fails_gives_way_to_the_next_one(bucket: S3Store, proxy: FaultProxy) -> None:
    """Or training would stand still for the rest of its patience, at each checkpoint of an outage."""
    events = Events()
    savers = group(bucket, attempt=begin_attempt(bucket), on_event=events, patience_s=3000, hold_s=0.2)
    commit(savers, 64)
    proxy.plan = Plan(refuse=1.0)
    for images in (128, 192, 256):
        saves.save(savers, images)
    assert [facts["images"] for facts in events.of("checkpoint_missed")] == [128, 192]
    proxy.plan = CALM
    assert all(saver.flush(300) for saver in savers)  # nobody waits for training now: tried to its end
    assert [open_checkpoint(bucket, name).manifest.images for name in candidates(bucket)] == [256, 64]
    check_whole(newest(bucket))


def test_a_store_that_is_slow_and_well_has_longer_than_one_in_trouble(
    bucket: S3Store, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gen_dist.checkpoint.saver.SLOWEST_BYTES_S", 100.0)
    monkeypatch.setattr("gen_dist.checkpoint.saver.LOOK_S", 0.1)
    waited: list[float] = []
    savers = group(bucket, attempt=begin_attempt(bucket), patience_s=1.0, on_wait=lambda: waited.append(0.0))
    files = itertools.count()

    def wait(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(".safetensors") and next(files) == 0:
            time.sleep(2.5)  # the other worker has long written its files

    proxy.before_request = wait
    saves.save(savers, 64)
    savers[0].wait()
    assert len(waited) > 5, "the watchdog hears that the store is slow"
    assert all(saver.flush(300) for saver in savers)
    check_whole(newest(bucket))


def test_a_slow_store_holds_back_the_next_save_and_says_for_how_long(bucket: S3Store, proxy: FaultProxy) -> None:
    savers = group(bucket, attempt=begin_attempt(bucket))
    slow = threading.Event()

    def wait(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(".safetensors") and not slow.is_set():
            time.sleep(0.7)

    proxy.before_request = wait
    saves.save(savers, 64)
    saves.save(savers, 128)
    slow.set()
    assert all(saver.flush(300) for saver in savers)
    assert savers[0].waited_s > 0.3  # the other one was waited for meanwhile
    assert [open_checkpoint(bucket, name).manifest.images for name in candidates(bucket)] == [128, 64]


def test_a_manifest_whose_answer_is_lost_is_committed_once(bucket: S3Store, proxy: FaultProxy) -> None:
    events = Events()
    savers = group(bucket, attempt=begin_attempt(bucket), on_event=events)
    proxy.plan = Plan(lose=0.5, seed=11)
    commit(savers, 64)
    proxy.plan = CALM
    assert proxy.counts["lose"] > 0
    assert len(events.of("checkpoint")) == 1
    check_whole(newest(bucket))
