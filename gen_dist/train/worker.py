"""What one Ray Train worker does: build the parts of a run, pick up where the run stands, and loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train

from gen_dist.data.order import Plan
from gen_dist.data.sequential import SequentialStream, Unindexed
from gen_dist.data.source import Data, open_stream
from gen_dist.data.stream import Stream
from gen_dist.job import arithmetic
from gen_dist.job.load import load_resolved
from gen_dist.job.spec import JobSpec
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.registry.runs import checkpoint_store
from gen_dist.registry.wal import WAL
from gen_dist.train import spares
from gen_dist.train.fits import check_fits
from gen_dist.train.hub import Resume, Wishes
from gen_dist.train.process import prepare
from gen_dist.train.report import Report, Reporter, silent
from gen_dist.train.sizes import bucket_sizes, check_kept

if TYPE_CHECKING:
    from torch import nn

    from gen_dist.checkpoint import Checkpoint
    from gen_dist.store import Store
    from gen_dist.train.averages import Averages
    from gen_dist.train.collective import Team
    from gen_dist.train.engines import Engines
    from gen_dist.train.loop import Loop
    from gen_dist.train.membership import Member
    from gen_dist.train.notices import Notices
    from gen_dist.train.watchdog import Unwatched, Watchdog


@dataclass(frozen=True)
class Assignment:
    """All that a worker is told."""

    job: dict[str, Any]
    """The resolved job."""
    run_folder: Path
    """Absolute; of each machine's own where it is not shared."""
    train: Data | Unindexed
    heldout: Data | Unindexed | None
    hub: Any
    log_id: str
    """Of the run's log as the driver sees it."""


def train_worker(config: dict[str, Any]) -> None:
    """Entry of every worker, on its first start and after each restart."""
    assignment: Assignment = config["assignment"]
    spares.taken()
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
    from gen_dist.train import recovery
    from gen_dist.train.collective import Team

    team = Team(device)
    report: Report = silent
    if team.leads:
        report = Reporter(assignment.run_folder / WAL, assignment.hub.put.remote, heard_in=assignment.log_id)
    resume = member.enter(team, recovery.begin(_patient_store(job), team=team, report=report))
    if resume is None:
        return
    parts: dict[str, Any] = {"team": team, "report": report, "resume": resume, "watchdog": member.watchdog}
    with build_loop(assignment, job, **parts) as loop, _spares(job, member, report):
        clock = loop.run()
    report("end", images=clock.images, spent=member.watchdog.spent())


@contextmanager
def _spares(job: JobSpec, member: Member, report: Report) -> Iterator[None]:
    """Within, once it has lasted, this machine has as many spare processes as it has workers."""
    if not job.run.spares or member.rank != min(member.mates):
        yield
        return
    kept = spares.Spares(len(member.mates), lambda number: report("spares", processes=number))
    try:
        yield
    finally:
        kept.close()


@contextmanager
def build_loop(
    assignment: Assignment,
    job: JobSpec,
    *,
    team: Team,
    report: Report,
    resume: Resume,
    watchdog: Watchdog | Unwatched,
) -> Iterator[Loop]:
    """The loop of this worker with all its parts, where the newest checkpoint left it. Its streams close with it.

    What it began to write is committed when the context is left without an error.
    """
    from gen_dist.train import recovery, state
    from gen_dist.train.committer import Committer
    from gen_dist.train.feed import Feed
    from gen_dist.train.guard import Guard
    from gen_dist.train.ledger import Ledger
    from gen_dist.train.loop import Loop
    from gen_dist.train.meters import Meters
    from gen_dist.train.studio import Studio

    parts, frozen = _build(job, team)
    recipe, digests = parts["recipe"], recovery.led(team, lambda: state.frozen_digests(frozen))
    where = _pick_up(assignment, _patient_store(job), resume, team=team, report=report, frozen=digests, **parts)
    clock, plan, kept, found = where.clock, where.plan, where.stream, where.found
    ledger = Ledger(plan, team=team, max_bad_share=job.data.max_bad_share, folder=assignment.run_folder, state=kept)
    guard = Guard(job.train.nonfinite, divergence=job.train.divergence, state=kept.get("guard"))
    if resume.after_position is not None:
        guard.forgive()
        ledger.pass_over(clock, position=resume.after_position)
    begun = {"attempt": resume.attempt, "resumed_from": found.url if found else "", "workers": team.size}
    facts = {**begun, "passed_over_images": ledger.shift, "spent": watchdog.spent(), **_sizes(parts["engines"])}
    report("start", images=clock.images, **facts)
    common: dict[str, Any] = {**parts, "ledger": ledger, "team": team, "report": report}
    meters = Meters(team, images=clock.images, kept=kept.get("losses"))
    common |= {"guard": guard, "meters": meters, "watchdog": watchdog}
    commit = Committer(
        checkpoint_store(job),  # the Saver knows better how long it may wait
        resume.attempt,
        **common,
        parent=found.name if found else None,
        frozen=digests,
        data_digest=assignment.train.digest,
    )
    share = {"rank": team.rank, "num_workers": team.size, "started_at": clock.images + ledger.shift}
    with _opened(assignment, job, recipe, plan, **share) as (train, heldout):
        samples = assignment.run_folder / "samples"
        drawn: dict[str, Any] = {"recipe": recipe, "frozen": frozen, "train": train, "heldout": heldout}
        studio = Studio(job, **drawn, team=team, folder=samples, report=report)
        feed = Feed(train, recipe, clock, ledger, job=job, rank=team.rank, world_size=team.size, device=team.device)
        asked = _notices(assignment, team)
        loop = Loop(**common, feed=feed, studio=studio, clock=clock, commit=commit, notices=asked)
        with commit.seen_through():
            yield loop


def _build(job: JobSpec, team: Team) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """The job with its recipe, engines and averages, all fresh; and the networks that are used and never trained."""
    from gen_dist.train.averages import Averages
    from gen_dist.train.engines import Engines

    recipe = catalog.build(job.recipe, job.model)
    networks = {name: net.to(team.device) for name, net in recipe.networks().items()}
    frozen = {name: net.to(team.device).eval().requires_grad_(False) for name, net in recipe.frozen().items()}
    engines = Engines(recipe.groups(), networks, job)
    averages = Averages(
        engines, half_life_images=job.train.ema_half_life_images, batch_images=job.train.global_batch_images
    )
    return {"job": job, "recipe": recipe, "engines": engines, "averages": averages}, frozen


@dataclass(frozen=True)
class _Where:
    """Where a worker group goes on."""

    clock: Clock
    plan: Plan | None
    """How samples are shuffled; None where they are streamed without an index."""
    stream: Mapping[str, Any]
    """What the checkpoint keeps of them."""
    found: Checkpoint | None


def _pick_up(
    assignment: Assignment,
    store: Store,
    resume: Resume,
    *,
    job: JobSpec,
    recipe: Recipe,
    engines: Engines,
    averages: Averages,
    frozen: Mapping[str, str],
    team: Team,
    report: Report,
) -> _Where:
    """The newest checkpoint that is not to be passed over, put into the engines; or the beginning. Collective.

    Raises: CheckpointError.
    """
    from gen_dist.train import recovery, state
    from gen_dist.train.ledger import check_same_reading

    plan = _plan(job, recipe, assignment.train)
    found = recovery.recover(store, resume.attempt, team=team, report=report, skip=resume.skip_checkpoints)
    if found is None:
        return _Where(Clock(images=0, step=0), plan, {}, None)
    kept = found.manifest.facts["stream"]
    check_same_reading(kept, streams=isinstance(assignment.train, Unindexed), where=found.url)
    check_fits(found, job=job, frozen=frozen, data_digest=assignment.train.digest)
    if kept and plan is not None:
        plan = Plan(**kept["plan"])
        check_kept(plan, job, where=found.url)
    clock = state.restore(found, recipe=recipe, engines=engines, averages=averages)
    return _Where(clock, plan, kept, found)


@contextmanager
def _opened(
    assignment: Assignment, job: JobSpec, recipe: Recipe, plan: Plan | None, **share: int
) -> Iterator[tuple[Stream | SequentialStream, Stream | SequentialStream | None]]:
    """Training and held-out samples."""
    with ExitStack() as streams:
        train = _open(job, recipe, assignment.train, plan, **share)
        streams.callback(train.close)
        heldout = None
        if assignment.heldout is not None:
            heldout = _open(job, recipe, assignment.heldout, None)
            streams.callback(heldout.close)
        yield train, heldout


def _patient_store(job: JobSpec) -> Store:
    """That of the checkpoints, for the start of a group: nothing is lost while it waits."""
    store = checkpoint_store(job)
    store.be_patient()
    return store


def _notices(assignment: Assignment, team: Team) -> Notices:
    from gen_dist.train.notices import Notices

    wishes = Wishes(assignment.hub)
    asked = {"should_stop": wishes.stop, "should_save": wishes.save}
    return Notices(team, **asked, preemption=ray.train.get_preemption_info)


def _open(
    job: JobSpec, recipe: Recipe, data: Data | Unindexed, plan: Plan | None, **share: int
) -> Stream | SequentialStream:
    """`share`: this worker's part of shards without an index, see `SequentialStream`."""
    for store in data.stores:
        store.be_patient()
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


def _sizes(engines: Any) -> dict[str, Any]:
    return {"parameters": {name: member.num_parameters for name, member in engines.items()}}
