"""`gen-dist train`: the run, shown to a person, and what it left."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from gen_dist.cli.program import typed
from gen_dist.cli.progress import View, seconds, summary
from gen_dist.cli.screen import screen
from gen_dist.job import arithmetic
from gen_dist.job.settings import enlarges, settings_of
from gen_dist.job.spec import JobSpec
from gen_dist.registry.find import DEFAULT_DATABASE
from gen_dist.registry.secrets import without_secrets

if TYPE_CHECKING:
    from gen_dist.registry.publish import Published


def run(job: JobSpec, *, command: str, as_json: bool, fresh: bool = False) -> dict[str, Any]:
    """Train; with `as_json` all that a person would read goes to standard error. Returns the report."""
    console = screen(sys.stderr if as_json else sys.stdout)
    started_s = time.monotonic()
    console.print(f"{'run':<10} {job.name}: {job.recipe} in {arithmetic.run_folder(job)}", highlight=False)
    with View(console, total_images=arithmetic.images_at_end(job)) as view:
        view.note(f"{'starting':<10} Ray and {job.cluster.num_workers} worker(s)")
        from gen_dist.train.driver import train

        outcome = train(job, watch=view, fresh=fresh)
    published = outcome.published
    facts = {
        "finished": outcome.finished,
        "images": outcome.images,
        "seconds": round(time.monotonic() - started_s, 1),
        "run_folder": _shown(outcome.run_folder),
        "checkpoint": _shown(outcome.checkpoint),
        "sample_grid": _shown(outcome.sample_grid),
        "model": published.uri if published else None,
        "model_alias": published.alias_uri if published else None,
        "draw": _draw(job, published) if published else None,
        "goodput": outcome.goodput.line(),
        "goodput_s": {cause: round(value, 2) for cause, value in outcome.goodput.seconds().items()},
        "goodput_s_by_attempt": {
            str(number): {cause: round(value, 2) for cause, value in spent.items()}
            for number, spent in outcome.goodput.by_attempt().items()
        },
        "mlflow_run": outcome.mlflow_run,
        "wal_lag_rows": outcome.wal_lag_rows,
        "mlflow_page": _mlflow_page(job, outcome.mlflow_run),
        "resume": None if outcome.finished else command,
        "signal": outcome.signalled,
    }
    _tell(console, facts)
    return facts


def _tell(console: Console, facts: dict[str, Any]) -> None:
    took = seconds(facts["seconds"])
    end = "done" if facts["finished"] else "stopped"
    lines = {end: f"{facts['images']:,} images in {took}", "goodput": facts["goodput"], "samples": facts["sample_grid"]}
    if facts["model"]:
        lines["model"] = f"{facts['model']} ({facts['model_alias']})"
        lines["draw"] = facts["draw"]
    lines["look"] = facts["mlflow_page"]
    lines["resume"] = facts["resume"]
    summary(console, {name: value for name, value in lines.items() if value})


def _draw(job: JobSpec, published: Published) -> str:
    """A command that draws from the registered model; it names the tracker where that is not the usual one.

    An upsampler wants the name of a base model in it.
    """
    prompt = job.train.prompts[0] if job.train.prompts else "anything"
    uri = arithmetic.tracking_uri(job)
    where = [] if uri == f"sqlite:///{DEFAULT_DATABASE}" else ["--tracking-uri", without_secrets(uri)]
    drawn_by = published.alias_uri
    model = ["BASE", prompt, "--upsampler", drawn_by] if enlarges(settings_of(job.recipe)) else [drawn_by, prompt]
    return typed("gen-dist", ["sample", *model, "--seed", "7", "-o", "sample.png", *where])


def _mlflow_page(job: JobSpec, run_id: str | None) -> str:
    """The command that opens the record, or the page of the run on its server."""
    uri = arithmetic.tracking_uri(job)
    if uri.startswith(("http://", "https://")):
        return str(without_secrets(uri)).rstrip("/") + (f"/#/runs/{run_id}" if run_id else "")
    return typed("mlflow", ["ui", "--backend-store-uri", without_secrets(uri)])


def _shown(place: Path | str | None) -> str | None:
    """Relative to the current folder where it lies below it."""
    if place is None or "://" in str(place):
        return str(place) if place else None
    path = Path(place)
    try:
        here = Path.cwd()
    except FileNotFoundError:  # Ray removes the folder of a submitted job as soon as it is to stop
        return str(path)
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
