"""`gen-dist data audit`: the proof that a run used each of its samples once an epoch, or where it did not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gen_dist.cli.data.options import Json
from gen_dist.cli.json_report import print_report

if TYPE_CHECKING:
    from gen_dist.data.audit import Epoch
    from gen_dist.data.source import Data
    from gen_dist.sample.source import ModelFacts

MOST_LINES = 20  # of epochs and of segments, told in text; --json tells of all
HEAD = ("source", "epoch", "samples", "once", "more", "missing", "skipped", "unreadable")


def audit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder (its newest checkpoint), or a checkpoint.")],
    as_json: Json = False,
) -> None:
    """Prove that a run used each sample once an epoch, over all its restarts and numbers of workers.

    Every checkpoint keeps how many samples the workers took since the one before, and a checksum of their numbers. This
    computes both again from the order of the data, and counts each sample in each epoch. Proved: the committed steps
    were given these samples and no others. Not proved: that their bytes were those of today (the digest is of names
    and sizes; `gen-dist data verify` reads them), nor what the model made of them. An unreadable sample keeps its
    place with weight 0 and counts as used; its number is told. So is that of samples that a rollback passed over
    (`train.nonfinite`), which the epoch then lacks. Exit code 1: the proof does not hold.
    """
    from gen_dist.data import audit as audits
    from gen_dist.data.source import find_data
    from gen_dist.job.load import load_resolved
    from gen_dist.registry.find import find_model

    source = find_model(run)
    found = source.facts
    kept = audits.kept(found.stream, where=source.place)
    job = load_resolved(found.job, origin=source.place)
    data = find_data(job.data)
    _must_agree(source.place, found, data)
    order = data.order(seed=job.seed, plan=kept.plan)
    with _bar(found.images, as_json=as_json) as progress:
        proof = audits.prove(
            order, kept, sizes=[len(source) for source in data.sources], end=found.images, progress=progress
        )
    urls = [source.store_of(0).url for source in data.sources]
    facts = {
        "run": run,
        "checkpoint": source.place,
        "images": found.images,
        "data_digest": data.digest,
        "holds": proof.holds,
        "epochs": [
            {**asdict(epoch), "source": urls[epoch.source], "missing": epoch.missing, "holds": epoch.holds}
            for epoch in proof.epochs
        ],
        "num_unreadable": len(kept.bad),
        "num_skipped": kept.num_skipped,
        "num_segments": len(proof.segments),
        "disagree": [asdict(segment) for segment in proof.segments if not segment.agrees],
    }
    print_report(facts) if as_json else _tell(facts, proof.epochs, urls)
    if not proof.holds:
        raise typer.Exit(1)


def _must_agree(where: str, found: ModelFacts, data: Data) -> None:
    from gen_dist.data.errors import DataError

    if found.data_digest != data.digest:
        raise DataError(
            f"the run learned from data {found.data_digest[:12]}, data.url now holds {data.digest[:12]}",
            shard=where,
            remedy="put the shards back as they were, with the same names; other data has another order",
        )


@contextmanager
def _bar(num_positions: int, *, as_json: bool) -> Iterator[Callable[[int], object]]:
    """Shown on a terminal only: elsewhere an audit is a few lines, however large the data."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr if as_json else sys.stdout)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("auditing", total=num_positions)
        yield lambda positions: bar.advance(task, positions)


def _tell(facts: dict[str, Any], epochs: Sequence[Epoch], urls: Sequence[str]) -> None:
    broken = [epoch for epoch in epochs if not epoch.holds]
    shown = broken[:MOST_LINES] or epochs[-MOST_LINES:]
    rows = [HEAD, *(_row(epoch, urls[epoch.source]) for epoch in shown)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        print("  ".join([row[0].ljust(widths[0]), *(row[at].rjust(widths[at]) for at in range(1, len(HEAD)))]))
    if len(epochs) > len(shown):
        print(f"({len(epochs) - len(shown):,} epochs more, {len(broken) - len(broken[:MOST_LINES]):,} of them broken)")
    for segment in facts["disagree"][:MOST_LINES]:
        print(
            f"disagrees  positions {segment['first']:,} to {segment['end']:,}: {segment['count']:,} samples taken, and"
            " not those that stand there"
        )
    where = f"{facts['images']:,} images in {facts['num_segments']:,} commits ({facts['checkpoint']})"
    if facts["num_skipped"]:
        print(f"skipped    {facts['num_skipped']:,} samples that a rollback passed over")
    if facts["holds"]:
        print(f"proved     each sample once an epoch: {where}")
    else:
        print(f"not proved {len(facts['disagree']):,} commits disagree, {len(broken):,} epochs are not whole: {where}")


def _row(epoch: Epoch, url: str) -> tuple[str, ...]:
    counts = (
        epoch.num_samples,
        epoch.used_once,
        epoch.used_more,
        epoch.missing,
        epoch.skipped,
        epoch.unreadable,
    )
    number = f"{epoch.number}" if epoch.whole else f"{epoch.number} (under way)"
    return (url, number, *(f"{count:,}" for count in counts))
