"""What a well-typed job must still satisfy: batches that divide, ZeRO stages its recipe allows, lengths that fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gen_dist.job.arithmetic import asked_sizes, splits, zero_stage
from gen_dist.job.problem import NO_VALUE, Problem, choose
from gen_dist.job.spec import JobSpec

MOST_NAMES = 8
LARGEST_ADVISED_BATCH_IMAGES = 1 << 16
BATCH_KEYS = ("train.micro_batch_images", "cluster.num_workers")


def limit_problems(
    job: JobSpec,
    zero_max: Mapping[str, int] | None,
    *,
    learns_many_sizes: bool = True,
    least_micro_batch: tuple[int, str] = (1, ""),
) -> list[Problem]:
    """Everything that cannot be, on however many workers; `zero_max` None: the groups are unknown."""
    stages = _stage_problems(job, zero_max) if zero_max is not None else []
    sizes = _size_problems(job, learns_many_sizes)
    gates = _gate_problems(job)
    kept = _retention_problems(job)
    alone = _alone_problems(job, *least_micro_batch)
    lengths = _length_problems(job)
    return [*_batch_problems(job), *alone, *lengths, *_derived_problems(job), *stages, *sizes, *gates, *kept]


def working_batches(job: JobSpec) -> list[int]:
    """The global batches next below and above the job's that its smallest number of workers can split."""
    unit = asked_sizes(job)[0] * job.train.micro_batch_images
    below = job.train.global_batch_images // unit * unit
    return [batch for batch in (below, below + unit) if 0 < batch <= max(LARGEST_ADVISED_BATCH_IMAGES, unit)]


def working_micro_batch(job: JobSpec) -> int | None:
    """The largest micro-batch, up to the job's, with which its smallest number of workers splits its global batch."""
    share, rest = divmod(job.train.global_batch_images, asked_sizes(job)[0])
    if rest:
        return None
    return max((size for size in range(1, job.train.micro_batch_images + 1) if share % size == 0), default=None)


def _batch_problems(job: JobSpec) -> list[Problem]:
    """A range passes with its lower end: the run takes what works above it, see `world_sizes`."""
    asked = asked_sizes(job)
    if splits(job, asked[0]):
        return []
    batch, micro = job.train.global_batch_images, job.train.micro_batch_images
    workers = f"{asked[0]} worker{'s' if asked[0] > 1 else ''}"
    if len(asked) > 1:
        workers += f", the fewest of cluster.num_workers=[{asked[0]}, {asked[-1]}],"
    what = f"not a multiple of {asked[0] * micro} ({workers} x {micro} images of train.micro_batch_images)"
    remedy = f"use {' or '.join(map(str, working_batches(job)))}, {_other_ways(job)}"
    return [Problem("train.global_batch_images", what, remedy, batch, BATCH_KEYS)]


def _alone_problems(job: JobSpec, least: int, otherwise: str) -> list[Problem]:
    """Micro-batches in which an image has no other to be compared with."""
    micro = job.train.micro_batch_images
    if micro >= least:
        return []
    what = f"recipe '{job.recipe}' compares an image with others of its micro-batch"
    remedy = f"write {least} or more, or {otherwise}"
    return [Problem("train.micro_batch_images", what, remedy, micro, ("recipe", "model"))]


def _other_ways(job: JobSpec) -> str:
    asked = asked_sizes(job)
    if len(asked) == 1:
        return "or change train.micro_batch_images"
    micro = working_micro_batch(job)
    working = [size for size in asked if splits(job, size)]
    ways = [f"or write train.micro_batch_images = {micro}"] if micro else []
    ways += [f"or let cluster.num_workers begin with {_listed(working, 'one of ')}"] if working else []
    return ", ".join(ways) or "or change train.micro_batch_images"


def _listed(sizes: Sequence[int], several: str = "") -> str:
    if len(sizes) == 1:
        return str(sizes[0])
    more = f" and {len(sizes) - MOST_NAMES} more" if len(sizes) > MOST_NAMES else ""
    return several + ", ".join(map(str, sizes[:MOST_NAMES])) + more


def _length_problems(job: JobSpec) -> list[Problem]:
    train, found = job.train, []
    if train.warmup_images > train.total_images:
        remedy = f"write at most {train.total_images}, such as {train.total_images // 10}"
        what = f"the run ends earlier, after train.total_images={train.total_images}"
        found.append(Problem("train.warmup_images", what, remedy, train.warmup_images, ("train.total_images",)))
    if train.total_images < train.global_batch_images:
        what = f"less than one step of train.global_batch_images={train.global_batch_images}"
        remedy = f"write at least {train.global_batch_images}"
        concerns = ("train.global_batch_images",)
        found.append(Problem("train.total_images", what, remedy, train.total_images, concerns))
    return found


def _derived_problems(job: JobSpec) -> list[Problem]:
    """What is stored was computed of the middle of each image, once."""
    data = job.data
    urls = [data.derived, *(mix.derived for mix in data.mix)]
    found = []
    if any(urls) and not all(urls):
        what = "some sources have derived shards, and others none"
        found.append(Problem("data.derived", what, "write `derived` beside each url, or nowhere", data.derived))
    if any(urls) and data.flip:
        what = "what is stored in data.derived cannot be mirrored"
        found.append(Problem("data.flip", what, "write flip = false", data.flip, ("data.derived",)))
    if any(urls) and data.crop == "random":
        what = "what is stored in data.derived is of the middle of each image"
        found.append(Problem("data.crop", what, 'write crop = "centre"', data.crop, ("data.derived",)))
    if any(urls) and data.aspect_buckets:
        what = "what is stored in data.derived has one shape"
        found.append(Problem("data.aspect_buckets", what, "write aspect_buckets = false", True, ("data.derived",)))
    return found


def _size_problems(job: JobSpec, learns_many_sizes: bool) -> list[Problem]:
    if learns_many_sizes or not job.data.aspect_buckets:
        return []
    what = f"recipe '{job.recipe}' learns at one size alone"
    remedy = "write false, or a recipe that learns at many sizes, as `gen-dist recipes NAME` tells"
    return [Problem("data.aspect_buckets", what, remedy, True, ("recipe",))]


def _retention_problems(job: JobSpec) -> list[Problem]:
    """A best checkpoint that no score could tell."""
    run = job.run
    if not run.keep_best:
        return []
    if not run.best_metric.startswith("heldout/"):
        what = f"run.best_metric={run.best_metric!r} is no held-out score"
        remedy = 'name one there, such as "heldout/psnr_db": those of the recipe are in the metrics of its runs'
        return [Problem("run.keep_best", what, remedy, run.keep_best, ("run.best_metric",))]
    if not job.data.heldout:
        what = f"{run.best_metric} is measured on held-out images, and data.heldout is empty"
        return [Problem("run.keep_best", what, "name shards there", run.keep_best, ("data.heldout",))]
    if not job.train.checkpoint_every_images:
        what = "train.checkpoint_every_images=0 writes one checkpoint, at the end"
        remedy = "write a number there, or keep_best = 0"
        return [Problem("run.keep_best", what, remedy, run.keep_best, ("train.checkpoint_every_images",))]
    every = job.train.sample_every_images
    if not every or every % job.train.checkpoint_every_images:
        what = f"scores are measured every train.sample_every_images={every} images, where no checkpoint is written"
        remedy = f"write a multiple of train.checkpoint_every_images={job.train.checkpoint_every_images} there"
        concerns = ("train.sample_every_images", "train.checkpoint_every_images")
        return [Problem("run.keep_best", what, remedy, run.keep_best, concerns)]
    return []


def _gate_problems(job: JobSpec) -> list[Problem]:
    """Gates of `[registry]` that no model of this job could pass, or that say nothing."""
    gates, found = job.registry, []
    for table in ("at_least", "at_most"):
        heldout = [name for name in getattr(gates, table) if name.startswith("heldout/")]
        if heldout and not job.data.heldout:
            what = f"{heldout[0]} is measured on held-out images, and data.heldout is empty"
            remedy = "name shards in data.heldout, or remove the gate"
            found.append(Problem(f"registry.{table}", what, remedy, NO_VALUE, ("data.heldout",)))
    for name in sorted(gates.at_least.keys() & gates.at_most.keys()):
        if gates.better_than_champion:
            what = f"{name} is also in registry.at_most: better could be higher or lower"
            found.append(Problem("registry.at_least", what, "name it in one of them, or drop better_than_champion"))
        elif gates.at_least[name] > gates.at_most[name]:
            what = f"{name} would have to be at least {gates.at_least[name]:g} and at most {gates.at_most[name]:g}"
            found.append(Problem("registry.at_least", what, "write a lower bound below the upper one"))
    if gates.better_than_champion and not gates.at_least and not gates.at_most:
        what, remedy = "no metric is named to compare", "name one in registry.at_least or registry.at_most"
        found.append(Problem("registry.better_than_champion", what, remedy, True))
    if gates.sample_grid and not job.train.sample_every_images:
        what, remedy = "train.sample_every_images=0 draws no grid", "write sample_every_images above 0"
        concerns = ("train.sample_every_images",)
        found.append(Problem("registry.sample_grid", what, remedy, True, concerns))
    return found


def _stage_problems(job: JobSpec, zero_max: Mapping[str, int]) -> list[Problem]:
    own = job.train.zero_stages
    unknown = [
        Problem(f"train.zero_stages.{name}", f"recipe '{job.recipe}' has no such group", choose(name, zero_max), stage)
        for name, stage in own.items()
        if name not in zero_max
    ]
    return unknown + [
        _too_high(job, group, highest) for group, highest in zero_max.items() if zero_stage(job, group) > highest
    ]


def _too_high(job: JobSpec, group: str, highest: int) -> Problem:
    stage = zero_stage(job, group)
    reason = (
        "a phase of it differentiates twice, which weights split by ZeRO 3 do not survive"
        if highest == 2
        else f"the recipe '{job.recipe}' says so"
    )
    what = f"above {highest}, the highest of group '{group}' ({reason})"
    own = f"train.zero_stages.{group}"
    if group in job.train.zero_stages:
        return Problem(own, what, f"write {highest}", stage, ("recipe",))
    remedy = f"write {own} = {highest}, or train.zero_stage = {highest}"
    return Problem("train.zero_stage", what, remedy, stage, ("recipe", own))
