"""The hub as its callers see it, without Ray: pulses of a group that hangs and of the next one, deaths, wishes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gen_dist.train.attempts import GONE, Ended, Worker
from gen_dist.train.hub import LOSS_KNOWN_S, SAVING_S, Hub
from gen_dist.train.pulses import Pulse
from gen_dist.train.watchdog import Order

WORKERS = [Worker(rank, "one-node", 100 + rank) for rank in range(2)]
KILLED = Ended(GONE, by_itself=False)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr("gen_dist.train.hub.time.monotonic", lambda: now.s)
    monkeypatch.setattr("gen_dist.train.hub._lost_nodes", frozenset)
    return now


def pulse(rank: int, attempt: int, *, for_s: float = 1.0, saved: bool = False, pid: int = 100) -> Pulse:
    """Of a process whose id is `pid` and its rank."""
    return Pulse(attempt, rank, "step", for_s, 60.0, node="one-node", pid=pid + rank, saved=saved)


def kinds(hub: Hub) -> list[str]:
    return [event["kind"] for event in hub.news().events]


def entered(hub: Hub, images: int = 320) -> int:
    resume = hub.enter(WORKERS, hub._attempts.number + 1)
    assert resume is not None
    hub.put({"kind": "start", "images": images})
    return resume.attempt


def test_a_group_that_hangs_saves_and_ends_once_and_the_next_one_lives(clock: SimpleNamespace) -> None:
    hub = Hub(silent_after_s=60.0)
    first = entered(hub)
    assert hub.pulse(pulse(0, first)) == hub.pulse(pulse(1, first)) == Order()
    assert hub.pulse(pulse(0, first, for_s=61.0)) == Order(), "the other one still moves"
    assert hub.pulse(pulse(1, first, for_s=61.0)) == Order(save=True)
    assert hub.pulse(pulse(0, first, for_s=61.0, saved=True)) == Order(save=True), "the other one has not saved yet"
    assert hub.pulse(pulse(1, first, for_s=61.0, saved=True)) == Order(save=True, end=True)
    assert hub.pulse(pulse(0, first, for_s=62.0, saved=True)) == Order(save=True, end=True)
    assert kinds(hub) == ["attempt", "start", "hang"]
    hub.mourn({0: KILLED, 1: KILLED})
    assert kinds(hub) == ["death"]
    assert hub.pulse(pulse(0, 0, for_s=2.0)) == Order(), "it has not entered yet"
    second = entered(hub)
    assert hub.pulse(pulse(0, second)) == hub.pulse(pulse(1, second)) == Order()
    assert hub.pulse(pulse(1, first)) == Order(end=True), "cut off from a group that was replaced"


def test_a_stopped_worker_is_ended_by_its_neighbours_after_its_timer_had_time_to_save(clock: SimpleNamespace) -> None:
    hub = Hub(silent_after_s=60.0)
    attempt = entered(hub)
    hub.pulse(pulse(1, attempt))
    for _ in range(60):
        clock.s += 1.0
        assert hub.pulse(pulse(0, attempt)) == Order()
    clock.s += 1.0
    assert hub.pulse(pulse(0, attempt)) == Order(save=True)
    assert hub.pulse(pulse(0, attempt, for_s=61.2, saved=True)) == Order(save=True)
    clock.s += SAVING_S
    assert hub.pulse(pulse(0, attempt, for_s=66.0, saved=True)) == Order(save=True, end=True, kill=(101,))
    (event,) = [event for event in hub.news().events if event["kind"] == "hang"]
    assert (event["rank"], event["silent"]) == (1, [1])


def test_a_group_that_hangs_before_it_has_entered_makes_way_for_the_next_one(clock: SimpleNamespace) -> None:
    hub = Hub(silent_after_s=60.0)
    hub.pulse(pulse(0, 0))
    hub.pulse(pulse(1, 0))
    for _ in range(61):
        clock.s += 1.0
        order = hub.pulse(pulse(0, 0))
    assert order == Order(save=True), "rank 1 is silent"
    clock.s += SAVING_S
    assert hub.pulse(pulse(0, 0, saved=True)).end
    hub.mourn({0: KILLED, 1: KILLED})
    for rank in (0, 1):
        assert hub.pulse(pulse(rank, 0, pid=200)) == Order(), "other processes: the verdict was not about them"


@pytest.mark.parametrize("ends", ["resize", "death"])
def test_nobody_of_a_group_that_has_ended_counts_as_silent_in_the_next_one(clock: SimpleNamespace, ends: str) -> None:
    """Which may be smaller, and slow to come up."""
    hub = Hub(silent_after_s=60.0)
    attempt = entered(hub)
    hub.pulse(pulse(0, attempt))
    hub.pulse(pulse(1, attempt))
    if ends == "resize":
        hub.resizing()
    else:
        hub.mourn({1: KILLED})
    hub.pulse(pulse(1, attempt))  # ended a little later
    for second in range(100):
        clock.s += 1.0
        assert hub.pulse(pulse(0, 0, pid=200)) == Order(), second


def test_where_nobody_is_to_count_as_stopped_nobody_does(clock: SimpleNamespace) -> None:
    hub = Hub(silent_after_s=0.0)
    attempt = entered(hub)
    hub.pulse(pulse(1, attempt))
    for _ in range(100):
        clock.s += 1.0
        assert hub.pulse(pulse(0, attempt)) == Order()


def test_a_hub_that_stood_still_takes_nobody_for_silent(clock: SimpleNamespace) -> None:
    hub = Hub(silent_after_s=60.0)
    attempt = entered(hub)
    hub.pulse(pulse(0, attempt))
    hub.pulse(pulse(1, attempt))
    clock.s += 300.0
    assert hub.pulse(pulse(0, attempt)) == hub.pulse(pulse(1, attempt)) == Order()


def test_deaths_over_several_machines_are_judged_when_it_is_known_whether_one_is_lost(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(max_failures=0)
    hub.enter([Worker(0, "one", 100), Worker(1, "other", 101)], 1)
    hub.put({"kind": "start", "images": 0})
    hub.mourn({1: KILLED})
    assert "death" not in kinds(hub)
    monkeypatch.setattr("gen_dist.train.hub._lost_nodes", lambda: frozenset({"other"}))
    clock.s += LOSS_KNOWN_S + 1
    news = hub.news()
    assert [event["node_lost"] for event in news.events] == [True]
    assert news.failure is None
    hub.enter(WORKERS, 2)
    hub.put({"kind": "start", "images": 0})
    hub.mourn({1: KILLED})
    assert hub.news().failure is not None, "on one machine nothing is to be waited for"


def test_a_rollback_is_told_by_every_worker_and_made_once(clock: SimpleNamespace) -> None:
    hub = Hub()
    entered(hub)
    for _ in range(2):
        hub.roll_back(2, 576, 560, "a loss of nan")
    hub.mourn({0: Ended("RollbackWanted", by_itself=True)})
    assert kinds(hub) == ["attempt", "start", "rollback"]
    resume = hub.enter(WORKERS, 2)
    assert resume is not None
    assert (resume.skip_checkpoints, resume.after_position) == (1, 576)


def test_nothing_follows_an_error_that_no_restart_mends(clock: SimpleNamespace) -> None:
    hub = Hub()
    hub.fail(ValueError("first"))
    hub.fail(ValueError("second"))
    assert hub.enter(WORKERS, 1) is None
    assert str(hub.news().failure) == "first"


def test_a_run_is_idle_while_no_group_of_workers_is_under_way(clock: SimpleNamespace) -> None:
    hub = Hub()
    assert hub.news().idle
    entered(hub)
    assert not hub.news().idle
    hub.mourn({0: KILLED, 1: KILLED})
    assert hub.news().idle
    entered(hub)
    hub.put({"kind": "end", "images": 640})
    assert hub.news().idle
