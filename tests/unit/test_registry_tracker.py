"""The tracker: MLflow's trouble never stops, slows or blocks a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gen_dist.job.spec import JobSpec
from gen_dist.registry.record import Event, Record
from gen_dist.registry.tracker import MOST_WAITING_BYTES, MOST_WAITING_EVENTS, Tracker

JOB = JobSpec.model_validate(
    {"name": "demo", "recipe": "latent_diffusion", "data": {"url": "embedded://emoji"}, "train": {"total_images": 64}}
)


class Memory:
    """A record that keeps what it hears, and fails as it is told to."""

    run_id = "r"

    def __init__(self, *, errors: Sequence[Exception] = (), gate: threading.Event | None = None) -> None:
        self.errors, self.gate = list(errors), gate
        self.events: list[Event] = []
        self.status = ""

    def _maybe_fail(self) -> None:
        if self.gate is not None:
            self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)

    def open(self) -> None:
        self._maybe_fail()

    def write(self, events: Sequence[Event]) -> None:
        self._maybe_fail()
        self.events += events

    def close(self, status: str) -> None:
        self._maybe_fail()
        self.status = status

    def passes(self, error: BaseException) -> bool:
        return isinstance(error, OSError)

    def line(self, error: BaseException) -> str:
        return f"trouble: {error}"


def tracker(record: Record | Callable[[], Record]) -> Tracker:
    make: Any = record if callable(record) else lambda: record
    return Tracker(JOB, run_folder=Path("unused"), facts={}, record=make)


def metrics(images: int) -> dict[str, Any]:
    return {"kind": "metrics", "at_s": 1.0, "images": images, "metrics": {"loss/a": 1.0}}


def test_every_event_is_recorded_in_order_and_then_the_end() -> None:
    memory = Memory()
    its = tracker(memory)
    for images in range(60):  # some before it is open
        its.handle(metrics(images))
    its.start()
    for images in range(60, 130):
        its.handle(metrics(images))
    assert its.wait(5)
    assert [event["images"] for event in memory.events] == list(range(130))
    assert its.finish("KILLED", 5)
    assert (memory.status, its.run_id, its.trouble) == ("KILLED", "r", None)


def test_what_no_record_needs_does_not_wait_for_one() -> None:
    memory = Memory()
    its = tracker(memory)
    for kind in ("start", "progress", "stopped", "end"):
        its.handle({"kind": kind, "at_s": 1.0})
    its.start()
    assert its.finish("FINISHED", 5)
    assert memory.events == []


def test_an_outage_is_waited_for_and_nothing_is_lost() -> None:
    memory = Memory(errors=[OSError("down"), OSError("still down")])
    its = tracker(memory)
    its.start()
    its.handle(metrics(1))
    deadline_s = time.monotonic() + 10
    while not its.wait(1) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert [event["images"] for event in memory.events] == [1]
    assert its.trouble == "trouble: down"
    assert its.finish("FINISHED", 5)


def test_an_event_that_is_refused_does_not_hold_up_the_next() -> None:
    memory = Memory()
    its = tracker(memory)
    its.start()
    assert its.wait(5)
    memory.errors.append(ValueError("refused"))
    its.handle(metrics(1))
    its.wait(5)
    time.sleep(0.05)
    its.handle(metrics(2))
    assert its.finish("FINISHED", 5)
    assert [event["images"] for event in memory.events] == [2]
    assert its.trouble == "trouble: refused"


@pytest.mark.parametrize("error", [ValueError("no such scheme"), ImportError("no mlflow")], ids=repr)
def test_a_record_that_cannot_be_made_is_trouble_and_nothing_else(error: Exception) -> None:
    def make() -> Record:
        raise error

    its = tracker(make)
    its.start()
    assert not its.wait(5)
    its.handle(metrics(1))
    assert not its.finish("FINISHED", 5)
    assert its.trouble is not None
    assert str(error) in its.trouble
    assert its.run_id is None


def test_a_server_that_never_answers_holds_nothing_up() -> None:
    gate = threading.Event()
    its = tracker(Memory(gate=gate))
    its.start()
    start_s = time.perf_counter()
    for images in range(MOST_WAITING_EVENTS + 100):
        its.handle(metrics(images))
    assert (time.perf_counter() - start_s) / MOST_WAITING_EVENTS < 0.001
    assert not its.wait(0.1)
    start_s = time.perf_counter()
    assert not its.finish("FAILED", 0.2)
    assert time.perf_counter() - start_s < 1.0
    gate.set()


def test_what_waits_for_a_server_is_bounded_and_the_newest_is_kept() -> None:
    gate = threading.Event()
    memory = Memory(gate=gate)
    its = tracker(memory)
    its.start()
    for images in range(200):
        its.handle({"kind": "samples", "at_s": 1.0, "images": images, "png": bytes(2**20)})
    gate.set()
    assert its.finish("FINISHED", 10)
    kept = [event["images"] for event in memory.events]
    assert kept == list(range(200 - MOST_WAITING_BYTES // 2**20, 200))


def test_a_tracker_that_was_never_started_ends_too() -> None:
    assert not tracker(Memory()).finish("FINISHED", 1)
