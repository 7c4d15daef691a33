"""T5: two groups alive at once. The older one's work never counts, whatever it writes and whenever."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from gen_dist.checkpoint import Name, begin_attempt, candidates, note_base, open_checkpoint
from gen_dist.checkpoint.commit import Commit, MissedError
from gen_dist.checkpoint.manifest import Manifest, Part
from gen_dist.store import Store, StoreError
from gen_dist.store.s3 import S3Store
from tests.support.fault_proxy import FaultProxy
from tests.support.groups import Plan, run, start, wait_for_stop
from tests.support.saves import Events, check_whole, commit, group, newest, pieces, state

FENCED = 3


@pytest.mark.parametrize("stage", ["file", "done", "manifest", "publish", "head"])
def test_a_group_that_stood_still_and_goes_on_is_fenced_off(new_store: Callable[[str], Store], stage: str) -> None:
    store = new_store("run")
    commit(group(store, attempt=begin_attempt(store)), 64)
    old = start(store, Plan(1, [128, 192], stage=stage, at_images=128, signal=signal.SIGSTOP))
    try:
        wait_for_stop(old[0])
        second = begin_attempt(store)
        base = candidates(store)[0]
        note_base(store, second, base)
        assert run(store, Plan(second, [96 if stage != "head" else 160])) == [0, 0]
        before = candidates(store)
        os.kill(old[0].pid, signal.SIGCONT)
        for process in old:
            process.join(300)
        assert old[0].exitcode == FENCED
    finally:
        for process in old:
            process.kill()
            process.join()
    assert candidates(store) == before
    assert newest(store).manifest.attempt == second
    for name in candidates(store):
        check_whole(open_checkpoint(store, name))
    if stage == "publish":  # it wrote its manifest after all: off the line of history
        assert store.list(Name(128, 1).manifest)


def test_a_leader_whose_worker_was_fenced_off_does_not_wait_for_it(bucket: S3Store) -> None:
    savers = group(bucket, attempt=begin_attempt(bucket), patience_s=300)
    leader, worker = savers
    leader.save(64, 1, pieces(state(64), rank=0, world_size=2), {})
    begin_attempt(bucket)
    worker.save(64, 1, pieces(state(64), rank=1, world_size=2), {})
    assert not worker.flush(300)
    assert not leader.flush(300)
    assert worker.is_fenced
    assert leader.is_fenced


def test_of_eight_racers_for_an_attempt_each_has_its_own(bucket: S3Store) -> None:
    events = Events()
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: begin_attempt(bucket, on_event=events), range(8)))
    assert sorted(numbers) == list(range(1, 9))
    assert events == []


def test_where_conditions_are_ignored_racers_have_their_own_too_and_say_so(bucket: S3Store, proxy: FaultProxy) -> None:
    proxy.conditional = False
    assert not bucket.enforces_conditions()
    events = Events()
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: begin_attempt(bucket, on_event=events, settle_s=1.0), range(8)))
    assert len(set(numbers)) == 8
    told = events.of("store_without_conditions")
    assert len(told) == 8
    assert "start one command at a time" in told[0]["warning"]


def test_a_server_that_looks_at_conditions_is_told_from_one_that_does_not(bucket: S3Store, proxy: FaultProxy) -> None:
    assert bucket.enforces_conditions()
    proxy.conditional = False
    assert not bucket.enforces_conditions()
    assert bucket.list("*") == []  # nothing of the trial is left


def test_of_eight_racers_for_one_manifest_one_commits(new_store: Callable[[str], Store]) -> None:
    store = new_store("run")
    begin_attempt(store)
    commit(group(store, attempt=1), 64)
    store.delete(Name(64, 1).manifest)

    def race(number: int) -> Manifest | Exception:
        # all of them believe that they lead; each would write another step
        racer = Commit(store, Name(64, 1), save=1, step=number, world_size=2, parent=None, facts={})
        try:
            return racer.run(lambda stage: None, deadline_s=0)[0]
        except (MissedError, StoreError) as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(race, range(8)))
    won = [end for end in ends if isinstance(end, Manifest)]
    assert len(won) == 1
    assert newest(store).manifest == won[0]
    assert all(isinstance(end, MissedError) and "has committed it" in str(end) for end in ends if end is not won[0])
    assert isinstance(won[0].contents, Part)
