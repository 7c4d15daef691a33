"""The flusher and its driver's side: trouble never stops, slows or blocks a run, and nothing is lost or said twice."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from gen_dist.job.spec import JobSpec
from gen_dist.registry.cursor import only_sender
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.flusher import LEFT_OVER, Control, Flusher, serve
from gen_dist.registry.record import Note, RunGoneError
from gen_dist.registry.tracker import Tracker
from gen_dist.registry.wal import WAL, WalWriter, log_id, read_events
from gen_dist.train.report import Reporter

JOB = JobSpec.model_validate(
    {"name": "demo", "recipe": "latent_diffusion", "data": {"url": "embedded://emoji"}, "train": {"total_images": 64}}
)


class Memory:
    """A record that keeps what it hears, once, and fails as it is told to."""

    run_id = "r"

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.notes: list[Note] = []

    def open(self) -> None:
        pass

    def write(self, notes: Sequence[Note]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.notes += [note for note in notes if note not in self.notes]

    def passes(self, error: BaseException) -> bool:
        return isinstance(error, OSError)

    def line(self, error: BaseException) -> str:
        return f"trouble: {error}"

    @property
    def images(self) -> list[int]:
        """Of the curve."""
        return [note.event["images"] for note in self.notes if note.run == "history-1" and "metrics" in note.event]

    @property
    def statuses(self) -> dict[str, str]:
        return {note.run: note.event["status"] for note in self.notes if note.event["kind"] == "status"}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "FIRST_PAUSE_S", "LONGEST_PAUSE_S"):
        monkeypatch.setattr(f"gen_dist.registry.flusher.{name}", 0.02)


class Served:
    """A flusher at work in a thread, and the driver's end of its input."""

    def __init__(self, folder: Path, memory: Memory) -> None:
        self.said: list[Any] = []
        self.code: int | None = None
        reading, writing = os.pipe()
        self._input: IO[str] = os.fdopen(writing, "w", buffering=1)
        control = Control(os.fdopen(reading))
        flusher = Flusher(folder, "memory://", record=lambda cursor: memory)

        def work() -> None:
            self.code = serve(flusher, control, self.said.append)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def ask(self, **words: Any) -> None:
        self._input.write(json.dumps(words) + "\n")

    def until(self, true: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 300.0
        while not true():
            assert time.monotonic() < deadline_s
            time.sleep(0.005)

    def synced(self, number: int) -> None:
        self.ask(sync=number)
        self.until(lambda: bool(self.said) and self.said[-1]["synced"] >= number)

    def end(self, *, word: bool = True) -> int | None:
        if word:
            self.ask(end=True)
        self._input.close()
        self._thread.join(300.0)
        return self.code


@pytest.fixture
def log(tmp_path: Path) -> Iterator[WalWriter]:
    writer = WalWriter(tmp_path / WAL)
    writer.append({"kind": "start", "at_s": 1.0, "images": 0, "attempt": 1})
    yield writer
    writer.close()


def point(images: int) -> dict[str, Any]:
    return {"kind": "metrics", "at_s": float(images), "images": images, "attempt": 1, "metrics": {"loss/a": 1.0}}


def saved(images: int) -> dict[str, Any]:
    return {"kind": "checkpoint", "at_s": float(images), "images": images, "attempt": 1}


def test_every_point_is_sent_in_order_and_then_the_end(tmp_path: Path, log: WalWriter) -> None:
    memory = Memory()
    for images in range(60):  # some before it looks
        log.append(point(images))
    served = Served(tmp_path, memory)
    for images in range(60, 130):
        log.append(point(images))
    log.append(saved(129))
    served.synced(1)
    assert memory.images == list(range(130))
    log.append({"kind": "status", "at_s": 200.0, "status": "KILLED"})
    assert served.end() == 0
    assert memory.statuses == {"attempt-000001": "KILLED", "history-1": "KILLED"}
    assert served.said[-1] == {"failing": False, "trouble": None, "run_id": "r", "lag_rows": 0, "synced": 1}


def test_nothing_is_on_the_curve_before_its_checkpoint(tmp_path: Path, log: WalWriter) -> None:
    memory = Memory()
    served = Served(tmp_path, memory)
    for images in range(10):
        log.append(point(images))
    log.append(saved(4))
    served.synced(1)
    assert memory.images == [0, 1, 2, 3, 4]
    assert len([note for note in memory.notes if note.run == "attempt-000001" and "metrics" in note.event]) == 10
    served.end()


@pytest.mark.parametrize("error", [OSError("down"), ValueError("refused")], ids=repr)
def test_an_outage_is_waited_for_and_nothing_is_lost(tmp_path: Path, log: WalWriter, error: Exception) -> None:
    memory = Memory(*[error] * 5)
    served = Served(tmp_path, memory)
    log.append(point(1))
    log.append(saved(1))
    served.until(lambda: memory.images == [1])
    lags = [words["lag_rows"] for words in served.said if words["failing"]]
    assert len(lags) == 5
    assert lags[-1] == 3
    assert all(words["trouble"] == f"trouble: {error}" for words in served.said if words["failing"])
    assert served.end() == 0


def test_a_run_that_ends_during_an_outage_does_not_wait_for_its_end(tmp_path: Path, log: WalWriter) -> None:
    memory = Memory(*[OSError("down")] * 10_000)
    served = Served(tmp_path, memory)
    served.until(lambda: bool(served.said))
    assert served.end() == LEFT_OVER
    memory.errors.clear()
    assert Served(tmp_path, memory).end() == 0
    assert memory.notes


def test_a_driver_that_vanishes_leaves_a_run_that_is_closed(tmp_path: Path, log: WalWriter) -> None:
    memory = Memory()
    log.append(point(1))
    served = Served(tmp_path, memory)
    assert served.end(word=False) == 0
    assert memory.statuses == {"attempt-000001": "KILLED", "history-1": "KILLED"}


def test_a_run_that_was_deleted_is_sent_again_from_the_first_line(tmp_path: Path, log: WalWriter) -> None:
    memory = Memory()
    served = Served(tmp_path, memory)
    log.append(point(1))
    log.append(saved(1))
    served.synced(1)
    memory.notes.clear()
    memory.errors.append(RunGoneError())
    log.append(point(2))
    log.append(saved(2))
    served.synced(2)
    assert memory.images == [1, 2]
    assert served.end() == 0


def test_another_process_goes_on_where_this_one_stopped(tmp_path: Path, log: WalWriter) -> None:
    first, second = Memory(), Memory()
    for images in range(5):
        log.append(point(images))
    log.append(saved(3))
    assert Served(tmp_path, first).end() == 0
    log.append(saved(4))
    assert Served(tmp_path, second).end() == 0
    assert (first.images, second.images) == ([0, 1, 2, 3], [4])


def test_one_process_at_a_time_sends_a_log(tmp_path: Path) -> None:
    with (
        only_sender(tmp_path, wait_s=0.0),
        pytest.raises(RegistryError, match="another process"),
        only_sender(tmp_path, wait_s=0.1),
    ):
        pass
    with only_sender(tmp_path, wait_s=0.0):
        pass


def test_what_nobody_reads_later_is_not_in_the_log_and_a_worker_s_line_is_there_once(tmp_path: Path) -> None:
    its = Tracker(JOB, run_folder=tmp_path, facts={"data_digest": "d", "versions": {"torch": "2"}, "num_samples": 3})
    its.begin()
    worker = WalWriter(tmp_path / WAL)
    worker.append(point(1))
    its.handle({**point(1), "wal": worker.name, "wal_bytes": worker.end_bytes})
    its.handle({**point(2), "wal": "000099.jsonl"})  # in a folder that this process does not see
    its.handle({**point(3), "log_trouble": "full", "dropped_lines": 0})
    for kind in ("progress", "data", "publishing"):
        its.handle({"kind": kind, "at_s": 1.0})
    its.handle({"kind": "stopping", "signal": "SIGTERM"})
    its.measured(3, {"goodput/training": 0.9})
    assert not its.finish("KILLED", 1.0)  # it was never started
    events = read_events(tmp_path / WAL)
    assert [event["kind"] for event in events] == ["job", *["metrics"] * 3, "stopping", "metrics", "status"]
    assert [event["images"] for event in events if event["kind"] == "metrics"] == [1, 2, 3, 3]
    assert "attempt" not in events[-2]
    assert events[0]["job"]["train"]["total_images"] == 64
    assert (events[0]["data_digest"], events[0]["facts"]) == ("d", {"num_samples": 3})
    assert its.news() == ["full; training goes on, make room there before lines of the log are lost"]
    assert its.news() == []


def test_the_lines_of_a_worker_that_does_not_share_the_folder_are_kept_by_the_driver(tmp_path: Path) -> None:
    """Their files have the same names there as the driver's own here."""
    here, there = tmp_path / "driver", tmp_path / "worker"
    its = Tracker(JOB, run_folder=here, facts={})
    its.begin()
    heard_in = log_id(here / WAL)
    assert heard_in
    assert heard_in == log_id(here / WAL)
    for folder in (there, here):
        says = Reporter(folder / WAL, its.handle, heard_in=heard_in)
        for kind in ("start", "checkpoint"):
            says(kind, attempt=1, images=64, where=folder.name)
        says.close()
    its.finish("KILLED", 1.0)
    kept = [(event["kind"], event.get("where")) for event in read_events(here / WAL)]
    lines = [("start", "driver"), ("checkpoint", "driver"), ("start", "worker"), ("checkpoint", "worker")]
    assert sorted(kept) == sorted([("job", None), *lines, ("status", None)])
    assert len(read_events(there / WAL)) == 2


def test_an_address_that_makes_no_sense_is_one_line_of_trouble(tmp_path: Path) -> None:
    job = JobSpec.model_validate({**JOB.model_dump(mode="json"), "tracking": {"uri": "nonsense://there"}})
    its = Tracker(job, run_folder=tmp_path, facts={})
    its.start()
    its.begin()
    its.handle({**point(1), "wal": ""})
    assert not its.wait(60.0)
    assert its.failing
    start_s = time.monotonic()
    assert not its.finish("FAILED", 5.0)
    assert time.monotonic() - start_s < 6.0
    assert len(str(its.trouble).splitlines()) == 1
    assert "nonsense" in str(its.trouble)
    assert its.run_id is None


def test_a_run_that_fails_before_its_workers_speak_ends_at_once(tmp_path: Path) -> None:
    its = Tracker(JOB, run_folder=tmp_path, facts={})
    its.start()
    its.begin()
    start_s = time.monotonic()
    assert its.finish("FAILED", 5.0)  # long before MLflow is imported
    assert time.monotonic() - start_s < 2.0
