"""Gauges of a run: what its events say to them, and that no trouble of theirs reaches the run."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gen_dist.train.gauges import GAUGES, Gauges, Reading, of_goodput, readings
from gen_dist.train.goodput import CAUSES, Goodput

CHECKPOINT = {
    "kind": "checkpoint",
    "images": 160,
    "size_bytes": 4096,
    "snapshot_s": 0.5,
    "waited_s": 0.0,
    "seconds": 2.0,
}
METRICS = {"speed/images_per_s": 90.0, "speed/data_wait_share": 0.25, "loss/main/mse": 0.5, "heldout/psnr_db": 18.0}


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"kind": "progress", "images": 16}, {Reading("images", 16.0)}),
        ({"kind": "attempt", "attempt": 3, "workers": 8}, {Reading("attempt", 3.0), Reading("workers", 8.0)}),
        ({"kind": "death", "images": 16, "ran_s": 1.0}, {Reading("workers", 0.0)}),
        (
            {"kind": "metrics", "images": 80, "metrics": METRICS},
            {
                Reading("images", 80.0),
                Reading("images_per_s", 90.0),
                Reading("data_wait_share", 0.25),
                Reading("loss", 0.5, "main/mse"),
                Reading("heldout", 18.0, "psnr_db"),
            },
        ),
        (
            CHECKPOINT,
            {
                Reading("checkpoint_images", 160.0),
                Reading("checkpoint_bytes", 4096.0),
                Reading("checkpoint_s", 0.5, "training stands still"),
                Reading("checkpoint_s", 0.0, "waits for the one before"),
                Reading("checkpoint_s", 2.0, "whole"),
            },
        ),
        ({"kind": "warning", "text": "slow"}, set()),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_an_event_says_to_gauges_what_it_holds(event: dict[str, Any], said: set[Reading]) -> None:
    assert set(readings(event)) == said
    assert all(reading.gauge in GAUGES and bool(reading.of) == bool(GAUGES[reading.gauge].label) for reading in said)


def test_goodput_is_told_by_cause() -> None:
    said = list(of_goodput(Goodput().metrics()))
    assert {reading.of for reading in said if reading.gauge == "goodput_s"} == set(CAUSES)
    assert [reading.gauge for reading in said if not reading.of] == ["goodput_share"]


@pytest.mark.parametrize("event", [{"kind": "metrics", "images": 1}, {"kind": "progress", "images": 1}])
def test_trouble_ends_the_gauges_and_not_the_run(event: dict[str, Any]) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("no metrics here")

    gauges = Gauges("demo", make=broken)
    gauges.hear(event, goodput=dict, wal_lag_rows=0)
    assert gauges.trouble is not None
    gauges.hear({"kind": "progress", "images": 2}, goodput=dict, wal_lag_rows=0)


def test_a_run_without_a_cluster_may_have_gauges() -> None:
    gauges = Gauges("demo")
    gauges.hear({"kind": "metrics", "images": 80, "metrics": METRICS}, goodput=Goodput().metrics, wal_lag_rows=3)
    gauges.close()
    assert gauges.trouble is None


class Kept:
    """A gauge that keeps what it was set to."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels, self.values = labels, []

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self._labels)
        self.values.append(value)


def test_what_was_said_once_is_set_until_the_run_ends() -> None:
    """Ray forgets a gauge that is not set again."""
    kept: dict[str, Kept] = {}
    gauges = Gauges("demo", make=lambda name, _, labels: kept.setdefault(name, Kept(labels)), again_s=0.01)
    gauges.hear({"kind": "attempt", "attempt": 3, "workers": 8}, goodput=dict, wal_lag_rows=0)
    give_up_s = time.monotonic() + 60
    while min(len(gauge.values) for gauge in kept.values()) < 5:
        assert time.monotonic() < give_up_s
        time.sleep(0.01)
    gauges.close()
    assert {name: set(gauge.values) for name, gauge in kept.items()} == {
        "gen_dist_attempt": {3.0},
        "gen_dist_workers": {8.0},
    }
