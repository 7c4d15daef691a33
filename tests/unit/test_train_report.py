"""What workers say is in the log before the call returns, carries its attempt, and never stops a run."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from gen_dist.registry.wal import read_events
from gen_dist.train.report import Reporter


def test_what_is_said_is_in_the_log_before_it_is_handed_on(tmp_path: Path) -> None:
    seen: list[int] = []

    def hand_on(event: Any) -> None:
        seen.append(len(read_events(tmp_path)))
        assert (tmp_path / event["wal"]).exists()

    report = Reporter(tmp_path, hand_on)
    report("start", images=0)
    for images in (64, 128):
        report("metrics", images=images, metrics={"loss/a": 0.5})
    assert seen == [1, 2, 3]


def test_each_event_carries_its_attempt_and_bytes_are_only_handed_on(tmp_path: Path) -> None:
    heard: list[Any] = []
    report = Reporter(tmp_path, heard.append)
    report("warning", text="before there is an attempt")
    report("start", images=0, attempt=7)
    report("samples", images=64, path="grid.png", png=b"PNG")
    report("end", images=64)
    report.close()
    assert [event.get("attempt") for event in read_events(tmp_path)] == [None, 7, 7, 7]
    assert [event.get("png") for event in heard] == [None, None, b"PNG", None]
    assert "png" not in read_events(tmp_path)[2]


def test_progress_is_thinned_out_and_not_kept(tmp_path: Path) -> None:
    heard: list[Any] = []
    report = Reporter(tmp_path, heard.append)
    for images in range(1_000):
        report("progress", images=images)
    assert 1 <= len(heard) < 20
    assert read_events(tmp_path) == []


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "wal").write_text("a file in its place")
    heard: list[Any] = []
    report = Reporter(tmp_path / "wal", heard.append)
    for images in range(5):
        report("metrics", images=images, metrics={"loss/a": 0.5})
    report.close()
    assert [event["images"] for event in heard] == list(range(5))
    assert all(event["log_trouble"] and "wal" not in event for event in heard)


def test_two_threads_may_speak(tmp_path: Path) -> None:
    report = Reporter(tmp_path, lambda event: None)

    def speak(first: int) -> None:
        for images in range(first, 600, 2):
            report("checkpoint" if images % 50 == 0 else "metrics", images=images, metrics={})

    threads = [threading.Thread(target=speak, args=(first,)) for first in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(event["images"] for event in read_events(tmp_path)) == list(range(600))
