"""A training by the parts that a worker is made of: Engines, Averages, Feed, Loop, checkpoints. Runs on ranks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor

from gen_dist.checkpoint import open_checkpoint
from gen_dist.recipes.contract import Clock
from gen_dist.store import open_store
from gen_dist.train.fits import check_fits
from gen_dist.train.guard import DivergenceError, NonFiniteLossError, RollbackWanted
from gen_dist.train.process import prepare
from gen_dist.train.wiring import WiringError
from tests.contract.cases import Case, build, stream

DIGEST = "digest of the test's data"
SLOW_S = 1.0


def train(case: Case) -> dict[str, Any]:
    """From the start, or `case.resume`, to the end of the job. Returns, equal on all ranks:

    `weights`: fp32, by group/network.parameter; `averages`: what samples are drawn from, by network.parameter;
    `metrics`: what was reported, oldest first; `skipped`: the steps that were not made; `warnings`: the texts of such.
    """
    job = case.job
    device = prepare(job)
    from gen_dist.train import recovery, state
    from gen_dist.train.averages import Averages
    from gen_dist.train.collective import Team
    from gen_dist.train.committer import Committer
    from gen_dist.train.engines import Engines
    from gen_dist.train.feed import Feed
    from gen_dist.train.ledger import Ledger
    from gen_dist.train.loop import Loop
    from gen_dist.train.masters import whole_weights
    from gen_dist.train.meters import Meters
    from gen_dist.train.studio import Studio

    team = Team(device)
    recipe, groups = build(case)
    frozen = {name: net.eval().requires_grad_(False) for name, net in recipe.frozen().items()}
    digests = state.frozen_digests(frozen)
    engines = Engines(groups, recipe.networks(), job)
    averages = Averages(
        engines, half_life_images=job.train.ema_half_life_images, batch_images=job.train.global_batch_images
    )
    clock, kept = Clock(images=0, step=0), {}
    if case.resume is not None:
        checkpoint = open_checkpoint(open_store(str(case.resume.parent)), case.resume.name)
        check_fits(checkpoint, job=job, frozen=digests, data_digest=DIGEST)
        clock = state.restore(checkpoint, recipe=recipe, engines=engines, averages=averages)
        kept = checkpoint.manifest.facts["stream"]["losses"]
    metrics: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    warnings: list[str] = []

    def report(kind: str, **facts: Any) -> None:
        if kind == "metrics":
            metrics.append(facts["metrics"])
        elif kind == "skipped":
            skipped.append(facts)
        elif kind == "warning":
            warnings.append(facts["text"])

    data = stream(job, recipe)
    ledger = Ledger(data.order.plan, team=team, max_bad_share=1.0)
    meters = Meters(team, images=clock.images, kept=kept)
    parts = {"job": job, "recipe": recipe, "team": team, "report": report, "meters": meters}
    commit = None
    if case.folder is not None:
        store = open_store(str(case.folder))
        attempt = recovery.begin(store, team=team, report=report)
        held = {"engines": engines, "averages": averages, "ledger": ledger, "data_digest": DIGEST}
        commit = Committer(store, attempt, parent=None, frozen=digests, **parts, **held)
    Loop(
        **parts,
        engines=engines,
        averages=averages,
        ledger=ledger,
        feed=Feed(data, recipe, clock, ledger, job=job, rank=team.rank, world_size=team.size, device=device),
        studio=Studio(
            job,
            recipe=recipe,
            team=team,
            report=report,
            frozen=frozen,
            train=data,
            heldout=data,
            folder=Path(tempfile.mkdtemp()),
        ),
        clock=clock,
        commit=commit or (lambda now, scores: None),
    ).run()
    if commit is not None:
        commit.finish()
    weights = {
        f"{name}/{key.removeprefix('nets.')}": _array(value)
        for name, member in engines.items()
        for key, value in whole_weights(member)
    }
    drawn_from = {key: _array(value) for key, value in state.model_weights(engines, averages).items()}
    said = {"metrics": metrics, "skipped": skipped, "warnings": warnings}
    return {"weights": weights, "averages": drawn_from, **said}


def train_with_slow_copies(case: Case) -> float:
    """As `train`, where what lasts is copied only when a step could long be made; seconds that steps waited for it."""
    from gen_dist.checkpoint import Saver
    from gen_dist.checkpoint.snapshot import Snapshot

    whole, waited_s = Saver.settle, [0.0]

    def finish(self: Snapshot, finish: Callable[[Snapshot], None] = Snapshot.finish) -> None:
        time.sleep(SLOW_S)
        finish(self)

    def settle(self: Saver) -> None:
        began_s = time.monotonic()
        whole(self)
        waited_s[0] += time.monotonic() - began_s

    with patch.object(Snapshot, "finish", finish), patch.object(Saver, "settle", settle):
        train(case)
    return waited_s[0]


def train_until_refused(case: Case) -> tuple[str, str, tuple[Any, ...]]:
    """The error that ends the training: its type, its text and its arguments. Every rank must raise it."""
    try:
        train(case)
    except (DivergenceError, NonFiniteLossError, RollbackWanted, WiringError) as error:
        return type(error).__name__, str(error), error.args
    return "", "", ()


def _array(value: Tensor) -> np.ndarray:
    """A copy that goes through a pipe as bytes: a tensor would go as an open file each."""
    return value.detach().clone().numpy()
