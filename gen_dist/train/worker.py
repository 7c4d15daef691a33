"""What one Ray Train worker does: build the parts of a run, pick up where the run stands, and loop."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
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
from gen_dist.job.load import load_resolved
from gen_dist.job.spec import JobSpec
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.train.hub import Resume, Wishes
from gen_dist.train.process import prepare
from gen_dist.train.report import Report, Reporter, silent
from gen_dist.train.sizes import bucket_sizes, check_kept

if TYPE_CHECKING:
    from gen_dist.train.collective import Team
    from gen_dist.train.guard import Guard
    from gen_dist.train.ledger import Ledger
    from gen_dist.train.loop import Loop
    from gen_dist.train.membership import Member
    from gen_dist.train.notices import Notices
    from gen_dist.train.watchdog import Watchdog


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
    job = load_resolved(assignment.job)
    from gen_dist.train.membership import Member

    member = Member(assignment.hub, run_folder=assignment.run_folder, hang_after_s=job.run.hang_after_s)
    with member.last_words():
        _train(assignment, job, member)


def _train(assignment: Assignment, job: JobSpec, member: Member) -> None:
    device = prepare(job)
    # after `prepare`: DeepSpeed looks at the environment when it is first imported
    from gen_dist.train.collective import Team

    team = Team(device)
    resume = member.enter(team)
    if resume is None:
        return
    report: Report = silent
    if team.leads:
        report = Reporter(assignment.run_folder / "events.jsonl", assignment.hub.put.remote)
    with build_loop(assignment, job, team=team, report=report, resume=resume, watchdog=member.watchdog) as loop:
        clock = loop.run()
        report("end", images=clock.images, spent=member.watchdog.spent())


@contextmanager
def build_loop(
    assignment: Assignment,
    job: JobSpec,
    *,
    team: Team,
    report: Report,
    resume: Resume | None = None,
    watchdog: Watchdog | None = None,
) -> Iterator[Loop]:
    """The loop of this worker with all its parts, where the newest checkpoint left it. Its streams close with it."""
    from gen_dist.train import state
    from gen_dist.train.averages import Averages
    from gen_dist.train.engines import Engines
    from gen_dist.train.feed import Feed
    from gen_dist.train.guard import Guard
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
    clock, found = Clock(images=0, step=0), _base(assignment, resume, team)
    kept = checkpoint.read_manifest(found).stream if found is not None else {}
    if found is not None:
        check_same_reading(kept, streams=isinstance(assignment.train, Unindexed), where=found)
        clock = state.restore(found, **parts, data_digest=assignment.train.digest)
    plan = _plan(job, recipe, assignment.train, found, kept)
    ledger = Ledger(plan, team=team, max_bad_share=job.data.max_bad_share, folder=assignment.run_folder, state=kept)
    if resume is not None and resume.after_position is not None:
        ledger.pass_over(clock, position=resume.after_position)
    guard = Guard(job.train.nonfinite, state=kept.get("guard"))
    watched: dict[str, Any] = {"team": team, "report": report, "guard": guard, "watchdog": watchdog}
    facts = _begun(resume, watchdog, ledger) | _sizes(engines)
    report("start", images=clock.images, resumed_from=str(found or ""), workers=team.size, **facts)

    with ExitStack() as streams:
        share = {"rank": team.rank, "num_workers": team.size, "started_at": clock.images + ledger.shift}
        train, heldout = _open_both(streams, assignment, job, recipe, plan, **share)
        drawn: dict[str, Any] = {"train": train, "heldout": heldout, "folder": assignment.run_folder / "samples"}
        yield Loop(
            **parts,
            **watched,
            ledger=ledger,
            feed=Feed(train, recipe, clock, ledger, job=job, rank=team.rank, world_size=team.size, device=team.device),
            studio=Studio(job, recipe=recipe, frozen=frozen, team=team, report=report, **drawn),
            clock=clock,
            commit=partial(_commit, assignment, ledger=ledger, **watched, **parts),
            notices=_notices(assignment, team),
        )


def _begun(resume: Resume | None, watchdog: Watchdog | None, ledger: Ledger) -> dict[str, Any]:
    """What the start of a worker group says beside where it stands."""
    return {
        "attempt": resume.attempt if resume else 0,
        "passed_over_images": ledger.shift,
        "spent": watchdog.spent() if watchdog else {},
    }


def _notices(assignment: Assignment, team: Team) -> Notices:
    from gen_dist.train.notices import Notices

    wishes = Wishes(assignment.hub)
    asked = {"should_stop": wishes.stop, "should_save": wishes.save}
    return Notices(team, **asked, preemption=ray.train.get_preemption_info)


def _base(assignment: Assignment, resume: Resume | None, team: Team) -> Path | None:
    """The checkpoint to go on from: the newest but those that are to be passed over, which keep another name."""
    found = checkpoint.checkpoints(_checkpoints(assignment))
    skip = min(resume.skip_checkpoints if resume else 0, max(0, len(found) - 1))
    team.wait()
    if team.leads:
        for path in found[len(found) - skip :]:
            path.rename(path.with_name(f"passed-over-{path.name}-{time.time_ns()}"))
    team.wait()
    return found[len(found) - skip - 1] if found else None


def _checkpoints(assignment: Assignment) -> Path:
    return assignment.run_folder / "checkpoints"


def _open_both(
    streams: ExitStack, assignment: Assignment, job: JobSpec, recipe: Recipe, plan: Plan | None, **share: int
) -> tuple[Stream | SequentialStream, Stream | SequentialStream | None]:
    """The training stream and the held-out one, closed with `streams`."""
    train = _open(job, recipe, assignment.train, plan, **share)
    streams.callback(train.close)
    if assignment.heldout is None:
        return train, None
    heldout = _open(job, recipe, assignment.heldout, None)
    streams.callback(heldout.close)
    return train, heldout


def _open(
    job: JobSpec, recipe: Recipe, data: Data | Unindexed, plan: Plan | None, **share: int
) -> Stream | SequentialStream:
    """`share`: this worker's part of shards without an index, see `SequentialStream`."""
    if isinstance(data, Unindexed):
        return SequentialStream(data, fields=recipe.batch, spec=job.data, seed=job.seed, **share)
    return open_stream(job.data, fields=recipe.batch, seed=job.seed, data=data, plan=plan)


def _plan(
    job: JobSpec, recipe: Recipe, data: Data | Unindexed, found: Path | None, kept: Mapping[str, Any]
) -> Plan | None:
    """How the run shuffles: as the checkpoint `found` has kept it, else for the most workers that a new run may have.

    None where it streams without an index.
    """
    if isinstance(data, Unindexed):
        return None
    if found is not None and kept:
        plan = Plan(**kept["plan"])
        check_kept(plan, job, where=found)
        return plan
    return data.plan(
        workers=arithmetic.world_sizes(job)[-1],
        shuffle_bytes=job.data.shuffle_bytes,
        run=job.train.micro_batch_images,
        buckets=bucket_sizes(job, recipe),
        batch=job.train.global_batch_images,
    )


def _commit(
    assignment: Assignment,
    now: Clock,
    *,
    team: Team,
    report: Report,
    ledger: Ledger,
    guard: Guard,
    watchdog: Watchdog | None,
    **parts: Any,
) -> Path | None:
    """Write a checkpoint, and say so to the watcher and to Ray. Every worker must call it."""
    from gen_dist.train import state

    stream = {**ledger.commit(now), "guard": guard.state()}
    path = state.save(
        _checkpoints(assignment), now, **parts, team=team, data_digest=assignment.train.digest, stream=stream
    )
    if path is not None:
        report("checkpoint", images=now.images, path=str(path), spent=watchdog.spent() if watchdog else {})
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
