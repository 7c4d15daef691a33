"""The ledger of goodput from events alone: every second has one cause, whatever became of the groups and the clocks."""

from __future__ import annotations

from typing import Any

import pytest

from gen_dist.train.goodput import CAUSES, Goodput


def spent(setup: float, step: float = 0.0, data: float = 0.0, checkpoint: float = 0.0) -> dict[str, float]:
    return {"setup": setup, "step": step, "data": data, "checkpoint": checkpoint, "samples": 0.0}


def attempt(number: int, waited_s: float, *, images: int = 0, at_s: float = 0.0) -> list[dict[str, Any]]:
    return [
        {"kind": "attempt", "attempt": number, "waited_s": waited_s, "at_s": at_s},
        {"kind": "start", "images": images, "spent": spent(0.0), "at_s": at_s},
    ]


def checkpoint(images: int, at_s: float, **sections: float) -> dict[str, Any]:
    return {"kind": "checkpoint", "images": images, "spent": spent(**sections), "at_s": at_s}


LAUNCH = {"kind": "launch", "at_s": 1000.0}
RUN = [
    LAUNCH,
    *attempt(1, 10.0, at_s=1010.0),  # 10 s until the group was there
    checkpoint(100, 1060.0, setup=5.0, step=40.0, data=4.0, checkpoint=1.0),
    {"kind": "metrics", "images": 150, "spent": spent(5.0, 60.0, 4.0, 1.0), "at_s": 1080.0},
    {"kind": "death", "images": 160, "ran_s": 75.0, "at_s": 1086.0},  # 5 s after its last word
    *attempt(2, 8.0, images=100, at_s=1093.0),
    {"kind": "end", "images": 200, "spent": spent(6.0, 80.0, 2.0, 2.0), "at_s": 1183.0},
]


def hear(events: list[dict[str, Any]]) -> Goodput:
    goodput = Goodput()
    for event in events:
        goodput.hear(event)
    return goodput


def test_every_second_of_a_run_with_a_death_has_its_cause() -> None:
    goodput = hear(RUN)
    expected = {
        "training": 40.0 + 80.0,
        "data_wait": 4.0 + 2.0,
        "checkpoint": 1.0 + 2.0,
        "samples": 0.0,
        "start_up": 10.0 + 5.0,
        "restart": 8.0 + 6.0,
        "lost_work": 20.0 + 5.0,
        "idle": 0.0,
    }
    assert goodput.seconds() == pytest.approx(expected)
    assert sum(goodput.seconds().values()) == pytest.approx(1183.0 - 1000.0)
    assert goodput.by_attempt()[1]["lost_work"] == 25.0
    assert goodput.metrics()["goodput/share"] == pytest.approx(120 / 183)
    assert goodput.line().startswith("66% of 3.0 min training; lost work 25.0 s, start up 15.0 s, restart 14.0 s")
    assert max(goodput.by_attempt()) == 2


def test_it_can_be_told_at_any_moment() -> None:
    for count in range(len(RUN) + 1):
        seconds = hear(RUN[:count]).seconds()
        assert set(seconds) == set(CAUSES)
        assert min(seconds.values()) >= 0.0
        assert sum(seconds.values()) <= 183.0 + 1e-6


def test_what_an_attempt_did_with_its_time_is_told_once_it_has_ended() -> None:
    goodput, told = Goodput(), []
    for event in RUN:
        goodput.hear(event)
        told += [(event["kind"], number, of) for number, of in goodput.of_ended(event).items()]
    kinds = [(kind, number) for kind, number, _ in told]
    assert kinds[:1] == [("death", 1)]
    assert ("end", 2) in kinds
    assert told[0][2]["goodput_of_attempt/lost_work_s"] == 25.0
    assert sum(told[-1][2].values()) == pytest.approx(sum(goodput.by_attempt()[2].values()))


def test_it_is_made_again_from_the_log() -> None:
    assert Goodput.of(RUN).seconds() == hear(RUN).seconds()
    assert sum(Goodput.of([]).seconds().values()) == 0.0


def test_a_driver_that_was_killed_loses_what_its_group_had_not_kept_and_the_time_until_the_next_is_idle() -> None:
    killed = [*RUN[:5], {"kind": "launch", "at_s": 1180.0}, *attempt(2, 12.0, images=100, at_s=1192.0)]
    seconds = hear(killed).seconds()
    assert seconds["lost_work"] == 20.0
    assert seconds["idle"] == 100.0
    assert seconds["start_up"] == 10.0 + 5.0 + 12.0
    assert seconds["restart"] == 0.0


def test_time_counts_from_the_first_launch_whatever_a_driver_says_before() -> None:
    killed = [*RUN[:5], {"kind": "launch", "at_s": 1180.0}, *attempt(2, 12.0, images=100, at_s=1192.0)]
    said = [{"kind": "job", "at_s": 970.0}, *killed[:5], {"kind": "job", "at_s": 1170.0}, *killed[5:]]
    assert hear(said).seconds() == hear(killed).seconds()


def test_waiting_for_room_is_idle_and_not_restart() -> None:
    waiting = {"kind": "waiting", "for_s": 30.0, "at_s": 1117.0}
    longer = {"kind": "waiting", "for_s": 60.0, "at_s": 1147.0}
    held_up = [*RUN[:6], waiting, longer, *attempt(2, 68.0, images=100, at_s=1153.0)]
    seconds = hear(held_up).seconds()
    assert (seconds["idle"], seconds["restart"]) == (60.0, 8.0)
    assert hear(held_up[:8]).seconds()["idle"] == 60.0, "while it waits"


def test_work_that_a_checkpoint_kept_is_lost_when_the_run_goes_back_before_it() -> None:
    back = [
        LAUNCH,
        *attempt(1, 1.0),
        checkpoint(100, 1050.0, setup=2.0, step=10.0, data=1.0),
        checkpoint(200, 1060.0, setup=2.0, step=30.0, data=3.0),
        {"kind": "rollback", "images": 200, "ran_s": 35.0, "at_s": 1061.0},
        *attempt(2, 5.0, images=100),
    ]
    seconds = hear(back).seconds()
    assert (seconds["training"], seconds["data_wait"]) == (10.0, 1.0)
    assert seconds["lost_work"] == 22.0


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_a_clock_that_jumps_moves_no_second_to_another_cause(jump_s: float) -> None:
    """T16: the worker's clock is put forward or back in the middle; order and lengths are not read from it."""
    jumped = [event if number < 3 else {**event, "at_s": event["at_s"] + jump_s} for number, event in enumerate(RUN)]
    assert hear(jumped).seconds() == hear(RUN).seconds()
    again = hear([*jumped, {"kind": "launch", "at_s": 1200.0}])
    assert again.seconds()["idle"] >= 0.0
