"""Worker groups as real processes that save checkpoints, and can be killed or stopped at any stage of a save.

The processes are forked: they need seconds less than spawned ones, and use the CPU alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gen_dist.checkpoint import FencedError, Keep, Name, Saver
from gen_dist.store import Store
from tests.support import saves
from tests.support.saves import FACTS, WAIT_S

FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Plan:
    """What a worker group does."""

    attempt: int
    images: Sequence[int]
    """Points of the run to save at."""
    victim: int = 0
    """Rank that gets `signal` ..."""
    stage: str = ""
    """... as this stage begins; "" never."""
    at_images: int = 0
    """... of this save."""
    signal: int = signal.SIGKILL
    world_size: int = 2
    scale: int = 1
    options: dict[str, Any] = field(default_factory=dict)


def start(store: Store, plan: Plan) -> list[Any]:
    """The processes of a group, one a rank."""
    processes = [FORK.Process(target=_work, args=(store, plan, rank), daemon=True) for rank in range(plan.world_size)]
    for process in processes:
        process.start()
    return processes


def run(store: Store, plan: Plan) -> list[int | None]:
    """Runs a group to its end; the exit codes by rank. When one is killed the others are too, as Ray does."""
    processes = start(store, plan)
    deadline_s = time.monotonic() + WAIT_S
    while any(process.exitcode is None for process in processes) and time.monotonic() < deadline_s:
        if any(process.exitcode not in (None, 0) for process in processes):
            for process in processes:
                process.kill()
        time.sleep(0.005)
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def wait_for_stop(process: Any) -> None:
    """Until a process has been stopped by a signal."""
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        with open(f"/proc/{process.pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "T":
                return
        time.sleep(0.005)
    raise AssertionError("it was not stopped")


def _wait_for_commit(store: Store, name: Name) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not store.list(name.manifest) and time.monotonic() < deadline_s:
        time.sleep(0.005)


def _work(store: Store, plan: Plan, rank: int) -> None:
    now = {"images": 0}

    def at(stage: str) -> None:
        wanted = rank == plan.victim and now["images"] == plan.at_images
        if wanted and stage.partition(" ")[0] == plan.stage:
            # to this thread: sent to the process, another thread may take it, and this one be far on until it has
            signal.pthread_kill(threading.get_ident(), plan.signal)

    saver = Saver(
        store,
        attempt=plan.attempt,
        rank=rank,
        world_size=plan.world_size,
        keep=Keep(last=1),
        patience_s=WAIT_S,
        at=at,
        **plan.options,
    )
    try:
        for images in plan.images:
            now["images"] = images
            held = saves.pieces(saves.state(images, scale=plan.scale), rank=rank, world_size=plan.world_size)
            saver.save(images, images // 64, held, FACTS if rank == 0 else {})
            if not saver.flush(WAIT_S):
                break
            if not plan.stage or images < plan.at_images:  # all go on together, as collectives in a training see to it
                _wait_for_commit(store, Name(images, plan.attempt))
        saver.save(0, 0, [], {}) if saver.is_fenced else None
    except FencedError:
        os._exit(3)
    os._exit(0 if saver.flush(0) else 1)
