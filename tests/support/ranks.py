"""N processes in one gloo group that run functions together: what a run's workers are, without Ray.

Importing torch and DeepSpeed takes ten seconds and more of a core. One process does, and ranks are forked from it.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

HOST = "127.0.0.1"
IMPORTS = "tests.support.rank_imports"
START_S = 400.0
END_S = 5.0


class RankError(AssertionError):
    """A rank that raised, died or was too slow; the text holds its traceback."""


class Ranks:
    """`size` processes. `run` gives every rank the same call. A failure ends them all; the next call starts anew."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []
        self._store: Any = None
        self._ready = False

    def run(self, function: Callable[..., Any], *args: Any, timeout_s: float = 400.0) -> list[Any]:
        """What `function(*args)` returned on each rank. It must be importable: a top-level function of a module.

        Raises: RankError.
        """
        if not self._processes:
            self.start()
        if not self._ready:
            self._collect(START_S)
            self._ready = True
        for pipe in self._pipes:
            pipe.send((function, args))
        return self._collect(timeout_s)

    def start(self) -> None:
        """Start the processes without waiting for them, so that two sets can start at once."""
        # this process holds the store, at a port that the system chose: nobody can take it in between
        self._store = dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([IMPORTS])
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.size, self._store.port, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def close(self) -> None:
        """End all processes."""
        for pipe in self._pipes:
            pipe.close()
        deadline_s = time.monotonic() + END_S
        for process in self._processes:
            process.join(max(0.0, deadline_s - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        self._processes, self._pipes, self._store, self._ready = [], [], None, False

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _collect(self, timeout_s: float) -> list[Any]:
        results: dict[int, Any] = {}
        deadline_s = time.monotonic() + timeout_s
        while len(results) < self.size:
            waiting = {self._pipes[rank]: rank for rank in range(self.size) if rank not in results}
            ready = wait(list(waiting), max(0.0, deadline_s - time.monotonic()))
            if not ready:
                self._fail(f"ranks {sorted(waiting.values())} of {self.size} gave no answer within {timeout_s:g} s")
            for pipe in ready:
                rank = waiting[pipe]  # type: ignore[index]
                try:
                    succeeded, answer = pipe.recv()  # type: ignore[union-attr]
                except (EOFError, ConnectionResetError):
                    self._processes[rank].join(END_S)
                    self._fail(f"rank {rank} of {self.size} died with exit code {self._processes[rank].exitcode}")
                if not succeeded:
                    self._fail(f"rank {rank} of {self.size} raised\n{answer}")
                results[rank] = answer
        return [results[rank] for rank in range(self.size)]

    def _fail(self, what: str) -> None:
        for process in self._processes:
            process.kill()  # the others may wait in a collective call for ever
        self.close()
        raise RankError(what)


def _serve(rank: int, size: int, port: int, pipe: Connection) -> None:
    """One rank: join the group, then answer calls until the pipe closes."""
    torch.set_num_threads(1)
    # what Ray Train tells its workers
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    try:
        store = dist.TCPStore(HOST, port, timeout=timedelta(seconds=START_S))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=START_S))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
        return
    pipe.send((True, None))
    while True:
        try:
            function, args = pipe.recv()
            pipe.send((True, function(*args)))
        except (EOFError, ConnectionError):
            break  # the pipe is closed: the test has ended
        except BaseException:
            pipe.send((False, traceback.format_exc()))
            return
    os._exit(0)  # no orderly end of a process group whose other ranks are gone
