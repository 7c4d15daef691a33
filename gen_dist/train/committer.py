"""Committer: what a worker does when the loop asks for a checkpoint. Training goes on once its state is copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gen_dist.checkpoint import CheckpointError, Saver
from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import JobSpec
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.registry.runs import retention
from gen_dist.store import Store
from gen_dist.train import state
from gen_dist.train.averages import Averages
from gen_dist.train.collective import Team
from gen_dist.train.engines import Engines
from gen_dist.train.guard import Guard
from gen_dist.train.hub import SupersededError
from gen_dist.train.ledger import Ledger
from gen_dist.train.meters import Meters
from gen_dist.train.recovery import warn_with
from gen_dist.train.report import Report
from gen_dist.train.watchdog import Unwatched, Watchdog

LAST_SAVE_S = 10.0


class Committer:
    """Every worker has one and calls it at the same points of the run."""

    def __init__(
        self,
        store: Store,
        attempt: int,
        *,
        parent: str | None,
        job: JobSpec,
        recipe: Recipe,
        engines: Engines,
        averages: Averages,
        frozen: dict[str, str],
        data_digest: str,
        ledger: Ledger,
        team: Team,
        report: Report,
        guard: Guard | None = None,
        meters: Meters | None = None,
        watchdog: Watchdog | Unwatched | None = None,
    ) -> None:
        self._url, self._attempt = store.url, attempt
        self._job, self._recipe, self._engines, self._averages = job, recipe, engines, averages
        self._frozen, self._data_digest = frozen, data_digest
        self._ledger, self._team, self._report = ledger, team, report
        self._meters = meters or Meters(team, images=0)
        self._guard, self._watchdog = guard or Guard(job.train.nonfinite), watchdog or Unwatched()
        self._spent: dict[int, dict[str, float]] = {}  # by images: what the state of that checkpoint had cost
        self._warn = warn_with(report)
        self._saver = Saver(
            store,
            attempt=attempt,
            rank=team.rank,
            world_size=team.size,
            parent=parent,
            keep=retention(job.run),
            on_event=self._heard,
            on_wait=lambda: self._watchdog.enter("checkpoint"),  # a slow store is no hang
        )
        for member in engines.values():
            member.before_change = self._settle

    def __call__(self, now: Clock, scores: Mapping[str, float]) -> None:
        """Begin a checkpoint; the event `checkpoint` tells when it is committed. Collective.

        `scores`: what was measured on these very weights, by metric.

        Raises: SupersededError, on all workers together, where a newer worker group has taken over.
        """
        stream = {**self._ledger.commit(now), "guard": self._guard.state(), "losses": self._meters.state()}
        self._spent[now.images] = self._watchdog.spent()
        facts: dict[str, Any] = {}
        if self._team.leads:
            facts = state.facts(
                job=self._job,
                engines=self._engines,
                frozen=self._frozen,
                data_digest=self._data_digest,
                stream=stream,
                scores=scores,
            )
        self._saver.wait()
        self._check_fenced()
        self._saver.save(
            now.images,
            now.step,
            state.pieces(self._engines, self._averages, self._recipe, team=self._team),
            facts,
        )

    def _settle(self) -> None:
        if not self._saver.is_settled:
            with self._watchdog.within("checkpoint"):
                self._saver.settle()

    @contextmanager
    def seen_through(self) -> Iterator[None]:
        """Within, training goes on; at its end, also by an error, what was begun is committed.

        Where a restart may mend the error, that gets little time: a worker that is gone will not write its part.
        """
        try:
            yield
        except Exception as error:  # not together: the others may not be here
            self._saver.flush(None if isinstance(error, GenDistError) else LAST_SAVE_S)
            raise
        self.finish()

    def finish(self, timeout_s: float | None = None) -> None:
        """Wait until the last checkpoint is committed. Collective. Raises: CheckpointError where it never will be."""
        written = self._saver.flush(timeout_s)
        self._check_fenced()
        if self._team.any(not written):
            raise CheckpointError(
                f"{self._url}: the last checkpoint could not be committed, see the warnings before; mend the store and"
                " run the same command again to go on from the one before"
            )

    def _check_fenced(self) -> None:
        if self._team.any(self._saver.is_fenced):
            raise SupersededError(
                f"{self._url}: another worker group has begun, this is attempt {self._attempt}; let one command at a"
                " time train this run, or give the job another name",
                attempt=self._attempt,
            )

    def _heard(self, kind: str, **facts: Any) -> None:
        """From the saver's thread."""
        self._warn(kind, **facts)
        if kind == "checkpoint":
            spent = self._spent.pop(facts["images"], {})
            self._report(kind, path=f"{self._url}/{facts.pop('name')}", spent=spent, **facts)
