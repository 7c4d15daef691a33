"""T15: a disk that is full or memory that is short costs a checkpoint or time, and never the run."""

from __future__ import annotations

import json
import multiprocessing
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gen_dist.checkpoint import begin_attempt, candidates, open_checkpoint
from gen_dist.store.local import LocalStore
from tests.support import saves
from tests.support.cli import ROOT
from tests.support.full_disk import MOUNTS
from tests.support.saves import Events, check_whole, commit, group, newest

SCALE = 20_000  # 2.8 MB a tensor


@contextmanager
def limited(kind: int, size_bytes: int) -> Iterator[None]:
    """The kernel refuses this process more, as it does where a disk or a machine is full."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def test_a_full_disk_costs_a_checkpoint_and_leaves_no_litter(tmp_path: Path) -> None:
    events = Events()
    store = LocalStore(tmp_path)
    savers = group(store, attempt=begin_attempt(store), on_event=events, patience_s=2.0, alarm_after=1)
    commit(savers, 64)
    with limited(resource.RLIMIT_FSIZE, 1 << 20):
        saves.save(savers, 128, scale=SCALE)
        assert [saver.flush(300) for saver in savers] == [False, False]
    assert "File too large" in events.of("checkpoint_alarm")[0]["warning"]
    assert not list(tmp_path.rglob("*.part"))
    check_whole(newest(store))
    saves.save(savers, 192, scale=SCALE)
    assert all(saver.flush(300) for saver in savers)
    check_whole(newest(store), scale=SCALE)
    assert {path.name for path in tmp_path.glob("images-*")} == set(candidates(store)), "the missed one takes room"


@pytest.mark.parametrize("kind", MOUNTS)
def test_a_disk_that_is_really_full_costs_checkpoints_and_what_was_missed_takes_no_room(
    tmp_path: Path, kind: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    try:
        mounted = subprocess.run([*alone, MOUNTS[kind], str(disk)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"no disk of its own for a test here: {error}")
    if mounted.returncode:
        pytest.skip(f"this user may mount no {kind} for a process of its own: {mounted.stderr.strip()}")
    Path(f"{disk}.img").unlink(missing_ok=True)
    program = f"{MOUNTS[kind]} && exec {sys.executable} -m tests.support.full_disk $0"
    done = subprocess.run([*alone, program, str(disk)], cwd=ROOT, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["ended"] == [True, True, False, False, False, True]
    assert said["left"] == [f"images-{images:012d}.a000001" for images in (64, 128, 384)]
    assert said["litter"] == []
    kinds = [kind for kind, _ in said["events"]]
    missed = ["checkpoint_missed", "checkpoint_missed", "checkpoint_alarm", "checkpoint_missed", "checkpoint_alarm"]
    assert kinds == ["checkpoint", "checkpoint", *missed, "checkpoint"]
    assert "No space left on device; make room there" in said["events"][4][1]["warning"]


def _save_with_little_memory(folder: Path, told: Any, file_bytes: int) -> None:
    events = Events()
    store = LocalStore(folder)
    savers = group(store, attempt=1, on_event=events, hold_s=0.2, alarm_after=1)
    held = [saves.pieces(saves.state(64, scale=SCALE * 15), rank=rank, world_size=2) for rank in (0, 1)]
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    little = used_bytes + (60 << 20)  # threads need some; a snapshot takes 90 MB
    with limited(resource.RLIMIT_AS, little), limited(resource.RLIMIT_FSIZE, file_bytes):
        for rank in (1, 0):  # each waits for its own save: the leader must come last
            savers[rank].save(64, 1, held[rank], saves.FACTS if rank == 0 else {})
        ended = [saver.flush(0) for saver in savers]
    saves.save(savers, 128)  # of what there is room for
    assert all(saver.flush(300) for saver in savers)
    told.send((ended, list(events)))


@pytest.mark.parametrize(
    ("file_bytes", "told"), [(-1, ["checkpoint"]), (1 << 20, ["checkpoint_missed", "checkpoint_alarm"])]
)
def test_memory_too_short_for_a_snapshot_costs_time_and_with_a_full_disk_a_checkpoint_and_is_told(
    tmp_path: Path, file_bytes: int, told: list[str]
) -> None:
    here, there = multiprocessing.Pipe()
    # a process of its own: a copy of this one may have room to spare that the limit does not see
    spawn = multiprocessing.get_context("spawn")
    worker = spawn.Process(target=_save_with_little_memory, args=(tmp_path, there, file_bytes))
    worker.start()
    assert here.poll(200)
    ended, events = here.recv()
    worker.join()
    is_written = file_bytes < 0
    assert ended == [is_written, is_written], events
    assert [kind for kind, _ in events] == ["checkpoint_without_snapshot", *told, "checkpoint"]
    store = LocalStore(tmp_path)
    check_whole(newest(store))
    if is_written:
        check_whole(open_checkpoint(store, candidates(store)[1]), scale=SCALE * 15)
