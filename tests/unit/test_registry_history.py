"""One curve of many attempts: each step once, in order, whatever died when; and the same one from any point on."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from gen_dist.registry.history import History
from gen_dist.registry.record import Note
from gen_dist.registry.wal import WAL, Event, WalReader, WalWriter
from tests.support.run_log import CrashingRun

Curves = dict[str, list[tuple[int, float, int]]]


def notes_of(folder: Path, *, at_once: int = 1_000, restart_every: int = 0) -> list[Note]:
    """All notes of a log; with `restart_every` another History goes on after so many portions, as if it was killed."""
    history, reader, notes, portions = History(), WalReader(folder / WAL), [], 0
    while entries := reader.read(at_once):
        notes += [note for entry in entries for note in history.add(entry)]
        portions += 1
        if restart_every and portions % restart_every == 0:
            history = History(history.state)
            reader = WalReader(folder / WAL, history.offsets)
            assert portions < 100_000
    return notes


def curves(notes: list[Note], key: str = "loss/a") -> Curves:
    found: Curves = defaultdict(list)
    for note in notes:
        if note.event["kind"] == "metrics" and key in note.event["metrics"]:
            point = (note.event["images"], note.event["metrics"][key], int(note.event["at_s"] * 1000))
            if point not in found[note.run]:  # MLflow's primary key
                found[note.run].append(point)
    return found


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "unnumbered"])
@pytest.mark.parametrize("seed", range(15))
def test_a_run_that_dies_twenty_times_has_each_step_once(tmp_path: Path, seed: int, numbered: bool) -> None:
    run = CrashingRun(tmp_path, seed=seed, numbered=numbered)
    run.describe()
    run.crash(20)
    run.end()
    found = dict(curves(notes_of(tmp_path)))
    assert found["history-1"] == run.curve
    steps = [images for images, _, _ in found["history-1"]]
    assert steps == sorted(set(steps))
    assert max(steps) == run.saved_images
    said = {f"attempt-{number:06d}": images for number, images in enumerate(run.attempts, 1) if images}
    assert {name: [images for images, _, _ in said] for name, said in found.items() if name != "history-1"} == said


@pytest.mark.parametrize("seed", range(5))
def test_a_reader_that_is_killed_again_and_again_gives_the_same_curves(tmp_path: Path, seed: int) -> None:
    run = CrashingRun(tmp_path, seed=seed, steps_between_checkpoints=3)
    run.crash(20)
    whole = curves(notes_of(tmp_path))
    # a portion longer than what may wait for a checkpoint, or the same lines would come for ever
    assert curves(notes_of(tmp_path, at_once=20, restart_every=1)) == whole
    assert curves(notes_of(tmp_path, at_once=1, restart_every=13)) == whole


def write(folder: Path, *events: Event) -> None:
    writer = WalWriter(folder / WAL)
    for event in events:
        writer.append({"at_s": 1.0, **event})
    writer.close()


def start(images: int, at_s: float, **facts: Any) -> Event:
    return {"kind": "start", "images": images, "at_s": at_s, **facts}


def point(images: int, at_s: float, **facts: Any) -> Event:
    return {"kind": "metrics", "images": images, "at_s": at_s, "metrics": {"loss/a": 0.5}, **facts}


def steps(notes: list[Note], run: str = "history-1", key: str = "loss/a") -> list[int]:
    return [images for images, _, _ in curves(notes, key)[run]]


def test_a_run_that_goes_back_two_checkpoints_repeats_no_step(tmp_path: Path) -> None:
    saved = {"kind": "checkpoint", "path": "c"}
    write(
        tmp_path,
        start(0, 1.0),
        point(64, 2.0),
        {**saved, "images": 64},
        point(128, 3.0),
        {**saved, "images": 128},
        point(192, 4.0),
    )
    write(tmp_path, start(64, 5.0), point(128, 6.0), point(192, 7.0), {**saved, "images": 192})
    assert curves(notes_of(tmp_path))["history-1"] == [(64, 0.5, 2000), (128, 0.5, 3000), (192, 0.5, 7000)]


def test_a_run_begun_from_scratch_gets_a_curve_of_its_own(tmp_path: Path) -> None:
    saved = {"kind": "checkpoint", "images": 64, "path": "c"}
    write(tmp_path, start(0, 1.0, attempt=1), point(64, 2.0, attempt=1), {**saved, "attempt": 1})
    write(tmp_path, start(0, 3.0, attempt=1), point(64, 4.0, attempt=1), {**saved, "attempt": 1})  # counted anew
    notes = notes_of(tmp_path)
    found = curves(notes)
    assert [found["history-1"], found["history-2"]] == [[(64, 0.5, 2000)], [(64, 0.5, 4000)]]
    assert [found["attempt-000001"], found["attempt-000002"]] == [[(64, 0.5, 2000)], [(64, 0.5, 4000)]]
    parents = [note.event["parent"] for note in notes if "parent" in note.event]
    assert parents == ["history-1", "history-2"]


def test_deaths_before_the_first_checkpoint_begin_no_new_curve(tmp_path: Path) -> None:
    write(tmp_path, start(0, 1.0), point(0, 1.5), point(64, 2.0))
    write(tmp_path, start(0, 3.0), point(0, 3.5), point(64, 4.0), {"kind": "checkpoint", "images": 64})
    assert curves(notes_of(tmp_path))["history-1"] == [(0, 0.5, 3500), (64, 0.5, 4000)]


def test_workers_that_were_given_up_add_nothing_to_the_curve(tmp_path: Path) -> None:
    zombie = WalWriter(tmp_path / WAL)
    for event in (start(0, 1.0, attempt=1), point(64, 2.0, attempt=1)):
        zombie.append(event)
    write(tmp_path, start(0, 3.0, attempt=2), point(64, 4.0, attempt=2))
    history, reader = History(), WalReader(tmp_path / WAL)
    notes = [note for entry in reader.read(100) for note in history.add(entry)]
    for event in (point(128, 5.0, attempt=1), {"kind": "checkpoint", "at_s": 6.0, "images": 128, "attempt": 1}):
        zombie.append(event)
    write(tmp_path, {"kind": "checkpoint", "images": 64, "attempt": 2})
    notes += [note for entry in reader.read(100) for note in history.add(entry)]
    assert curves(notes)["history-1"] == [(64, 0.5, 4000)]
    assert steps(notes, "attempt-000001") == [64, 128]


def test_a_score_that_comes_after_its_checkpoint_is_on_the_curve(tmp_path: Path) -> None:
    score = {"kind": "metrics", "images": 64, "at_s": 9.0, "metrics": {"heldout/psnr_db": 20.0}}
    write(tmp_path, start(0, 1.0), point(64, 2.0), {"kind": "checkpoint", "images": 64}, point(128, 3.0), score)
    assert steps(notes_of(tmp_path), key="heldout/psnr_db") == [64]


def test_what_the_driver_measures_is_on_the_curve_at_once_and_once(tmp_path: Path) -> None:
    driver = WalWriter(tmp_path / WAL)
    for images in (64, 128, 128, 64, 192):
        driver.append({"kind": "metrics", "at_s": 1.0, "images": images, "metrics": {"goodput/share": 0.9}})
    assert steps(notes_of(tmp_path), key="goodput/share") == [64, 128, 192]


def test_events_that_the_driver_wrote_for_its_workers_count_once(tmp_path: Path) -> None:
    """A disk that is full for the workers, or a folder that its driver does not see."""
    said = [start(0, 1.0, attempt=1), point(64, 2.0, attempt=1), {"kind": "checkpoint", "images": 64, "attempt": 1}]
    write(tmp_path, *said, {"kind": "metrics", "images": 64, "metrics": {"goodput/share": 0.9}})
    write(tmp_path, *said, point(128, 3.0, attempt=1), {"kind": "checkpoint", "images": 128, "attempt": 1})
    notes = notes_of(tmp_path)
    assert curves(notes)["history-1"] == [(64, 0.5, 2000), (128, 0.5, 3000)]
    assert steps(notes, key="goodput/share") == [64]
    assert {note.run for note in notes} == {"history-1", "attempt-000001"}


def test_how_attempts_ended_is_told(tmp_path: Path) -> None:
    write(tmp_path, start(0, 1.0))
    write(tmp_path, start(0, 2.0), {"kind": "end", "images": 0, "at_s": 3.0})
    write(tmp_path, {"kind": "status", "status": "KILLED", "at_s": 4.0})
    ends = [(note.run, note.event["status"]) for note in notes_of(tmp_path) if note.event["kind"] == "status"]
    assert ends == [("attempt-000001", "FAILED"), ("attempt-000002", "FINISHED"), ("history-1", "KILLED")]


def test_a_run_whose_driver_vanished_is_closed_once(tmp_path: Path) -> None:
    write(tmp_path, start(0, 1.0))
    history, reader = History(), WalReader(tmp_path / WAL)
    for entry in reader.read(10):
        history.add(entry)
    ends = [(note.run, note.event["status"]) for note in history.close(5.0)]
    assert ends == [("attempt-000001", "KILLED"), ("history-1", "KILLED")]
    assert history.close(6.0) == []
