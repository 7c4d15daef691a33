"""A worker as the hub knows it: watched from its first line, told what to do, and never gone without a word."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train

from gen_dist.job.errors import GenDistError
from gen_dist.train.attempts import Worker
from gen_dist.train.collective import Team
from gen_dist.train.guard import RollbackWanted
from gen_dist.train.hub import HubLine, Resume, SupersededError
from gen_dist.train.watchdog import Watchdog, sweep

HANG, ERRORS = "hang", "errors"
"""Folders of a run: saved stacks, and tracebacks of workers."""


class Member:
    """This worker in its group."""

    def __init__(self, hub: Any, *, run_folder: Path, hang_after_s: float) -> None:
        context = ray.train.get_context()
        self._hub, self._errors = hub, run_folder / ERRORS
        self.rank = context.get_world_rank()
        self.node = ray.get_runtime_context().get_node_id()
        self.attempt = 0
        self.mates = [self.rank]
        """Ranks of the workers on this machine, as Ray tells machines apart."""
        self.watchdog = Watchdog(
            run_folder / HANG,
            rank=self.rank,
            num_workers=context.get_world_size(),
            hang_after_s=hang_after_s,
            node=self.node,
        )
        if self.rank == 0:
            sweep(run_folder / HANG)
        self.watchdog.start(HubLine(hub))

    def enter(self, team: Team, attempt: int) -> Resume | None:
        """What this group, which took the number `attempt`, is to do; None: end, for the run has failed. Collective."""
        workers = team.gather(Worker(rank=self.rank, node=self.node, pid=os.getpid()))
        self.mates = [worker.rank for worker in workers if worker.node == self.node]
        told = ray.get(self._hub.enter.remote(workers, attempt)) if team.leads else None
        resume: Resume | None = team.gather(told)[0]
        if resume is not None:
            self.attempt = resume.attempt
            self.watchdog.begin(resume.attempt)
        return resume

    @contextmanager
    def last_words(self) -> Iterator[None]:
        """Within, the hub hears how this worker ends before Ray does."""
        try:
            yield
        except RollbackWanted as wanted:
            arguments = (wanted.checkpoints, wanted.after_position, wanted.images, wanted.why)
            ray.get(self._hub.roll_back.remote(*arguments))
            raise
        except SupersededError as error:
            if not ray.get(self._hub.is_superseded.remote(error.attempt)):  # by a command of someone else
                ray.get(self._hub.fail.remote(error))
                raise
        except GenDistError as error:
            ray.get(self._hub.fail.remote(error))
            raise
        except Exception as error:
            ray.get(self._hub.died.remote(self.rank, _line(error), self._write_down()))
            raise
        finally:
            self.watchdog.close()

    def _write_down(self) -> str:
        """The traceback, in a file of the run."""
        path = self._errors / f"attempt-{self.attempt:06d}" / f"rank{self.rank:05d}.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(traceback.format_exc())
        except OSError:
            return ""
        return str(path)


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
