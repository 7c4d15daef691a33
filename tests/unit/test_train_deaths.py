"""Which deaths of worker groups send the run a checkpoint back or stop it, and which worker is named."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from gen_dist.train.attempts import GONE, Attempts, Ended, RollbackLimitError, Worker, first_to_die
from gen_dist.train.deaths import CrashLoopError, Death, TrainingFailedError, judge

DEATH = Death(1, base_images=320, images=400, newest_images=320, near_images=16, rank=1, why="killed", log="")
WORKERS = [Worker(rank, f"node-{rank}", 100 + rank) for rank in range(2)]
NONE: frozenset[str] = frozenset()


def deaths(*images: int, newest: int = 320) -> list[Death]:
    return [replace(DEATH, attempt=number, images=at, newest_images=newest) for number, at in enumerate(images, 1)]


@pytest.mark.parametrize(
    ("places", "skip"),
    [((400,), 0), ((400, 400), 1), ((400, 416), 1), ((400, 417), 0), ((400, 640), 0), ((400, 640, 400), 0)],
)
def test_two_deaths_at_one_place_go_back_a_checkpoint_and_others_do_not(places: tuple[int, ...], skip: int) -> None:
    verdict = judge(deaths(*places), max_failures=10)
    assert (verdict.skip_checkpoints, verdict.stop) == (skip, None)


def test_the_third_at_one_place_stops_the_run_and_says_why() -> None:
    found = deaths(640, 400, 400, 408)
    found[-1] = replace(found[-1], base_images=160, why="Traceback\n  IndexError: 7", log="errors/rank00001.log")
    stop = judge(found, max_failures=10).stop
    assert isinstance(stop, CrashLoopError)
    (line,) = stop.lines
    parts = ("408 images", "3 worker groups", "160, 320", "rank 1", "IndexError: 7", "errors/rank00001.log", "mend")
    for part in parts:
        assert part in line
    assert str(pickle.loads(pickle.dumps(stop))) == str(stop)


def test_a_lost_machine_counts_for_nothing() -> None:
    lost = [replace(death, node_lost=True) for death in deaths(*[400] * 9)]
    assert judge(lost, max_failures=0).stop is None
    assert judge([*deaths(400), *lost, *deaths(400)], max_failures=10).skip_checkpoints == 1
    assert judge([*deaths(400, 400), *lost], max_failures=0) == judge([], max_failures=0)


def test_failures_without_a_new_checkpoint_are_counted_and_others_are_not() -> None:
    places = (330, 400, 500, 600)
    assert isinstance(judge(deaths(*places), max_failures=3).stop, TrainingFailedError)
    assert judge(deaths(*places), max_failures=4).stop is None
    went_on = [replace(death, newest_images=death.images - 10) for death in deaths(*places)]
    assert judge(went_on, max_failures=1).stop is None


def started(attempts: Attempts, *, images: int, now_s: float) -> None:
    attempts.enter(WORKERS, number=attempts.number + 1, now_s=now_s)
    attempts.hear({"kind": "start", "images": images}, now_s=now_s)


def test_a_group_is_remembered_by_where_it_began_and_how_far_it_came() -> None:
    attempts = Attempts(max_failures=9, max_rollbacks=9, now_s=0.0)
    started(attempts, images=320, now_s=10.0)
    for second in range(1, 6):
        attempts.hear({"kind": "progress", "images": 320 + 40 * second}, now_s=10.0 + second)
    attempts.hear({"kind": "checkpoint", "images": 480}, now_s=15.0)
    death, _ = attempts.bury({1: Ended("killed", by_itself=False)}, lost_nodes=NONE, now_s=16.0)
    assert death == Death(1, 320, 520, 480, near_images=80, rank=1, why="killed", log="")
    assert attempts.ran_s == 5.0
    assert attempts.enter(WORKERS, number=7, now_s=20.0) == 4.0
    assert attempts.number == 7


def test_news_that_comes_in_bursts_makes_no_two_deaths_the_same_place() -> None:
    attempts = Attempts(max_failures=9, max_rollbacks=9, now_s=0.0)
    started(attempts, images=0, now_s=10.0)
    for step in range(1, 41):  # 16 a step, ten steps a second, told five at a time
        attempts.hear({"kind": "progress", "images": 16 * step}, now_s=10.0 + -(-step // 5) * 0.5)
    death, _ = attempts.bury({1: Ended("killed", by_itself=False)}, lost_nodes=NONE, now_s=15.0)
    assert death is not None
    assert 160 <= death.near_images <= 2 * 160 + 16


def test_a_group_that_ended_as_it_was_meant_to_is_not_mourned() -> None:
    attempts = Attempts(max_failures=0, max_rollbacks=1, now_s=0.0)
    assert attempts.bury({}, lost_nodes=NONE, now_s=1.0)[0] is None
    started(attempts, images=0, now_s=1.0)
    attempts.hear({"kind": "end", "images": 100}, now_s=2.0)
    assert attempts.bury({}, lost_nodes=NONE, now_s=3.0)[0] is None
    started(attempts, images=0, now_s=4.0)
    assert attempts.roll_back(1, 64, "no number", now_s=5.0) is None
    assert attempts.bury({0: Ended("RollbackWanted", by_itself=True)}, lost_nodes=NONE, now_s=6.0)[0] is None
    assert (attempts.skip_checkpoints, attempts.after_position) == (0, 64)


def test_what_the_next_group_is_told_holds_until_it_has_started() -> None:
    attempts = Attempts(max_failures=9, max_rollbacks=9, now_s=0.0)
    for second in (1.0, 2.0):
        started(attempts, images=320, now_s=second)
        attempts.bury({}, lost_nodes=NONE, now_s=second)
    assert attempts.skip_checkpoints == 1
    attempts.enter(WORKERS, number=3, now_s=3.0)
    assert attempts.skip_checkpoints == 1
    attempts.hear({"kind": "start", "images": 160}, now_s=3.0)
    assert attempts.skip_checkpoints == 0


def test_rollbacks_that_lead_nowhere_end() -> None:
    attempts = Attempts(max_failures=9, max_rollbacks=2, now_s=0.0)
    for number in range(3):
        started(attempts, images=320, now_s=float(number))
        error = attempts.roll_back(1, 400, "a loss of nan", now_s=float(number))
        assert isinstance(error, RollbackLimitError) == (number == 2)
    started(attempts, images=320, now_s=4.0)
    attempts.hear({"kind": "checkpoint", "images": 480}, now_s=5.0)
    assert attempts.roll_back(1, 500, "a loss of nan", now_s=6.0) is None, "a new checkpoint counts"


def test_a_machine_that_the_cluster_has_lost_is_a_lost_machine() -> None:
    attempts = Attempts(max_failures=0, max_rollbacks=9, now_s=0.0)
    started(attempts, images=0, now_s=1.0)
    attempts.note_error(0, *ECHO)
    death, verdict = attempts.bury({}, lost_nodes=frozenset({"node-1"}), now_s=2.0)
    assert death is not None
    assert death.node_lost
    assert death.line() == "rank 1: its machine is gone"
    assert verdict.stop is None


ECHO = ("RuntimeError: Connection closed by peer [127.0.0.1]:4711", "echo.log")
OWN = ("IndexError: list index out of range", "own.log")
KILLED = Ended("its process was killed", by_itself=False)


@pytest.mark.parametrize(
    ("ended", "errors", "expected"),
    [
        ({1: KILLED}, {0: ECHO}, (1, "its process was killed", "")),
        ({0: Ended("echo", by_itself=True), 1: KILLED}, {0: ECHO}, (1, "its process was killed", "")),
        ({0: Ended("echo", by_itself=True)}, {0: ECHO, 1: OWN}, (1, *OWN)),
        ({}, {0: ECHO}, (1, GONE, "")),
        ({0: Ended("echo", by_itself=True)}, {0: ECHO}, (1, GONE, "")),
        ({}, {0: ECHO, 1: ECHO}, (0, *ECHO)),
        ({0: KILLED, 1: KILLED}, {1: ("hung: 60 s in section step", "")}, (1, "hung: 60 s in section step", "")),
        ({}, {}, (None, "gone without a word", "")),
    ],
)
def test_the_worker_that_died_first_is_named_and_not_those_that_missed_it(
    ended: dict[int, Ended], errors: dict[int, tuple[str, str]], expected: tuple[int | None, str, str]
) -> None:
    assert first_to_die(ended, errors, ranks=[0, 1]) == expected


def test_groups_that_die_before_they_have_entered_are_judged_too() -> None:
    """Such as a worker that cannot be imported: Ray would start it for ever."""
    attempts = Attempts(max_failures=9, max_rollbacks=9, now_s=0.0)
    for number in range(3):
        attempts.note_error(0, "ImportError: no such thing", "rank00000.log")
        ended = {0: Ended("ImportError: no such thing", by_itself=True)}
        death, verdict = attempts.bury(ended, lost_nodes=NONE, now_s=float(number))
        assert death is not None
        assert (death.attempt, death.why, death.log) == (number + 1, "ImportError: no such thing", "rank00000.log")
    assert isinstance(verdict.stop, CrashLoopError)
    assert attempts.enter(WORKERS, number=4, now_s=9.0) == 9.0, "all this time is one wait"


def test_one_group_dies_once() -> None:
    attempts = Attempts(max_failures=9, max_rollbacks=9, now_s=0.0)
    started(attempts, images=320, now_s=1.0)
    assert attempts.bury({1: KILLED}, lost_nodes=NONE, now_s=2.0)[0] is not None
    assert attempts.bury({}, lost_nodes=NONE, now_s=3.0)[0] is None, "as the next one enters"
    started(attempts, images=320, now_s=4.0)
    assert attempts.roll_back(1, 64, "no number", now_s=5.0) is None
    assert attempts.bury({0: KILLED}, lost_nodes=NONE, now_s=5.5)[0] is None, "Ray says so too"
    started(attempts, images=320, now_s=6.0)
    assert attempts.bury({}, lost_nodes=NONE, now_s=7.0)[0] is not None


def test_a_group_that_was_warned_of_a_lost_machine_dies_of_it_and_one_that_is_resized_does_not_die() -> None:
    attempts = Attempts(max_failures=0, max_rollbacks=9, now_s=0.0)
    for second in (1.0, 2.0, 3.0):
        started(attempts, images=320, now_s=second)
        attempts.hear({"kind": "notice", "images": 320}, now_s=second)
        death, verdict = attempts.bury({}, lost_nodes=NONE, now_s=second)
        assert death is not None
        assert death.node_lost
        assert verdict.stop is None
    started(attempts, images=320, now_s=4.0)
    attempts.close(now_s=6.0)
    assert attempts.bury({}, lost_nodes=NONE, now_s=7.0)[0] is None
    assert attempts.ran_s == 2.0
