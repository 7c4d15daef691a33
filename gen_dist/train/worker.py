"""What one Ray Train worker does: build the parts of a run, pick up where the run stands, and loop."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train

from gen_dist import checkpoint
from gen_dist.data.order import Plan
from gen_dist.data.sequential import SequentialStream, Unindexed
from gen_dist.data.source import Data, open_stream
from gen_dist.data.stream import Stream
from gen_dist.job import arithmetic
from gen_dist.job.errors import GenDistError
from gen_dist.job.load import load_resolved
from gen_dist.job.spec import JobSpec
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.registry.wal import WAL
from gen_dist.train.hub import StopSignal
from gen_dist.train.process import prepare
from gen_dist.train.report import Report, Reporter, silent
from gen_dist.train.sizes import bucket_sizes, check_kept

if TYPE_CHECKING:
    from gen_dist.train.collective import Team
    from gen_dist.train.ledger import Ledger
    from gen_dist.train.loop import Loop


@dataclass(frozen=True)
class Assignment:
    """All that a worker is told."""

    job: dict[str, Any]
    """The resolved job."""
    run_folder: Path
    """Absolute; seen by every worker."""
    train: Data | Unindexed
    heldout: Data | Unindexed | None
    hub: Any


def train_worker(config: dict[str, Any]) -> None:
    """Entry of every worker, on its first start and after each restart."""
    assignment: Assignment = config["assignment"]
    if ray.get(assignment.hub.failure.remote()) is not None:
        return  # a restart would meet the same error again
    try:
        _train(assignment)
    except GenDistError as error:
        ray.get(assignment.hub.fail.remote(error))
        raise


def _train(assignment: Assignment) -> None:
    job = load_resolved(assignment.job)
    device = prepare(job)
    # after `prepare`: DeepSpeed looks at the environment when it is first imported
    from gen_dist.train.collective import Team

    team = Team(device)
    report: Report = silent
    if team.leads:
        report = Reporter(assignment.run_folder / WAL, assignment.hub.put.remote)
    with build_loop(assignment, job, team=team, report=report) as loop:
        clock = loop.run()
    report("end", images=clock.images)


@contextmanager
def build_loop(assignment: Assignment, job: JobSpec, *, team: Team, report: Report) -> Iterator[Loop]:
    """The loop of this worker with all its parts, where the newest checkpoint left it. Its streams close with it."""
    from gen_dist.train import state
    from gen_dist.train.averages import Averages
    from gen_dist.train.engines import Engines
    from gen_dist.train.feed import Feed
    from gen_dist.train.ledger import Ledger, check_same_reading
    from gen_dist.train.loop import Loop
    from gen_dist.train.studio import Studio

    recipe = catalog.build(job.recipe, job.model)
    networks = {name: net.to(team.device) for name, net in recipe.networks().items()}
    frozen = {name: net.to(team.device).eval().requires_grad_(False) for name, net in recipe.frozen().items()}
    engines = Engines(recipe.groups(), networks, job)
    averages = Averages(
        engines, half_life_images=job.train.ema_half_life_images, batch_images=job.train.global_batch_images
    )
    parts: dict[str, Any] = {"job": job, "recipe": recipe, "engines": engines, "averages": averages}
    clock, found = Clock(images=0, step=0), checkpoint.newest(_checkpoints(assignment))
    kept = checkpoint.read_manifest(found).stream if found is not None else {}
    if found is not None:
        check_same_reading(kept, streams=isinstance(assignment.train, Unindexed), where=found)
        clock = state.restore(found, **parts, data_digest=assignment.train.digest)
    plan = _plan(job, recipe, assignment.train)
    if found is not None and kept and plan is not None:
        plan = Plan(**kept["plan"])
        check_kept(plan, job, where=found)
    ledger = Ledger(plan, team=team, max_bad_share=job.data.max_bad_share, folder=assignment.run_folder, state=kept)
    report("start", images=clock.images, resumed_from=str(found or ""), workers=team.size, **_sizes(engines))

    with ExitStack() as streams:
        share = {"rank": team.rank, "num_workers": team.size, "started_at": clock.images}
        train = _open(job, recipe, assignment.train, plan, **share)
        streams.callback(train.close)
        heldout = None
        if assignment.heldout is not None:
            heldout = _open(job, recipe, assignment.heldout, None)
            streams.callback(heldout.close)
        studio = Studio(
            job,
            recipe=recipe,
            frozen=frozen,
            team=team,
            train=train,
            heldout=heldout,
            folder=assignment.run_folder / "samples",
            report=report,
        )
        yield Loop(
            **parts,
            ledger=ledger,
            feed=Feed(train, recipe, clock, ledger, job=job, rank=team.rank, world_size=team.size, device=team.device),
            studio=studio,
            team=team,
            clock=clock,
            report=report,
            commit=partial(_commit, assignment, team=team, report=report, ledger=ledger, **parts),
            should_stop=StopSignal(assignment.hub),
        )


def _checkpoints(assignment: Assignment) -> Path:
    return assignment.run_folder / "checkpoints"


def _open(
    job: JobSpec, recipe: Recipe, data: Data | Unindexed, plan: Plan | None, **share: int
) -> Stream | SequentialStream:
    """`share`: this worker's part of shards without an index, see `SequentialStream`."""
    if isinstance(data, Unindexed):
        return SequentialStream(data, fields=recipe.batch, spec=job.data, seed=job.seed, **share)
    return open_stream(job.data, fields=recipe.batch, seed=job.seed, data=data, plan=plan)


def _plan(job: JobSpec, recipe: Recipe, data: Data | Unindexed) -> Plan | None:
    """How a new run shuffles, for the most workers it may have; None where it streams without an index."""
    if isinstance(data, Unindexed):
        return None
    return data.plan(
        workers=arithmetic.world_sizes(job)[-1],
        shuffle_bytes=job.data.shuffle_bytes,
        run=job.train.micro_batch_images,
        buckets=bucket_sizes(job, recipe),
        batch=job.train.global_batch_images,
    )


def _commit(
    assignment: Assignment, now: Clock, *, team: Team, report: Report, ledger: Ledger, **parts: Any
) -> Path | None:
    """Write a checkpoint, and say so to the watcher and to Ray. Every worker must call it."""
    from gen_dist.train import state

    stream = ledger.commit(now)
    path = state.save(
        _checkpoints(assignment), now, **parts, team=team, data_digest=assignment.train.digest, stream=stream
    )
    if path is not None:
        report("checkpoint", images=now.images, path=str(path))
    _point_ray_to(path, now)
    return path


def _sizes(engines: Any) -> dict[str, Any]:
    return {"parameters": {name: member.num_parameters for name, member in engines.items()}}


def _point_ray_to(path: Path | None, clock: Clock) -> None:
    """Tell Ray of a checkpoint: only a pointer, since Ray deletes what it holds. Every worker must call it."""
    metrics = {"images": clock.images}
    if path is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pointer.json").write_text(json.dumps({"checkpoint": str(path)}))
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
