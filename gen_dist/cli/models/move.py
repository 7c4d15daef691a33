"""`gen-dist models publish, promote, rollback, pin, unpin, delete`: decided by the ledger, kept in its audit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gen_dist.cli.json_report import print_report
from gen_dist.cli.models.options import Json, Numbered, TrackingUri, Why, meant, numbered, registry

if TYPE_CHECKING:
    from gen_dist.registry.gates import Result
    from gen_dist.registry.promote import Moved

Name = Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")]


def promote(
    model: Numbered,
    to: Annotated[str, typer.Option("--to", metavar="ALIAS", help="champion, or a name of your own.")] = "champion",
    force: Annotated[bool, typer.Option("--force", help="Promote though gates fail; --why is kept.")] = False,
    why: Why = "",
    tracking_uri: TrackingUri = "",
    as_json: Json = False,
) -> None:
    """Make a version champion, behind the gates of its job's [registry].

    Each gate is run now and its result kept with the version. Where one fails nothing moves, and each failure is one
    line. Of two promotions at the same time one wins; the other is told so.
    """

    def tell(result: Result) -> None:
        if not as_json:
            print(f"{'passed' if result.passed else 'failed':<10} {result.line}", flush=True)

    with registry(tracking_uri) as (client, uri):
        from gen_dist.registry import promote as moves

        registered, number = numbered(client, model, uri)
        moved = moves.promote(registered, number, to=to, force=force, why=why, tell=tell)
    _say(registered.name, moved, as_json=as_json)


def rollback(name: Name, why: Why = "", tracking_uri: TrackingUri = "", as_json: Json = False) -> None:
    """Make the previous champion champion again."""
    with registry(tracking_uri) as (client, uri):
        from gen_dist.registry import promote as moves

        registered, _ = meant(client, name, uri)
        moved = moves.rollback(registered, why=why)
    _say(registered.name, moved, as_json=as_json)


def pin(model: Numbered, why: Why = "", tracking_uri: TrackingUri = "", as_json: Json = False) -> None:
    """Keep a version from being deleted, whatever its aliases."""
    with registry(tracking_uri) as (client, uri):
        from gen_dist.registry import promote as moves

        registered, number = numbered(client, model, uri)
        moved = moves.pin(registered, number, why=why)
    _say(registered.name, moved, as_json=as_json)


def unpin(model: Numbered, why: Why = "", tracking_uri: TrackingUri = "", as_json: Json = False) -> None:
    """Let a pinned version be deleted again."""
    with registry(tracking_uri) as (client, uri):
        from gen_dist.registry import promote as moves

        registered, number = numbered(client, model, uri)
        moved = moves.unpin(registered, number, why=why)
    _say(registered.name, moved, as_json=as_json)


def delete(model: Numbered, why: Why = "", tracking_uri: TrackingUri = "", as_json: Json = False) -> None:
    """Delete a version and its exported model; refused where an alias or a pin holds it."""
    with registry(tracking_uri) as (client, uri):
        from gen_dist.registry import promote as moves

        registered, number = numbered(client, model, uri)
        moved = moves.delete(registered, number, why=why)
    _say(registered.name, moved, as_json=as_json)


def publish(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder (its newest checkpoint), or a checkpoint.")],
    tracking_uri: Annotated[str, typer.Option(help="MLflow address; else MLFLOW_TRACKING_URI, else the job's.")] = "",
    as_json: Json = False,
) -> None:
    """Register the model of a run that could not do so at its end, or of one of its checkpoints: the new candidate."""
    from gen_dist.job import arithmetic
    from gen_dist.job.load import load_resolved
    from gen_dist.registry.errors import RegistryError
    from gen_dist.registry.find import find_model

    source = find_model(run)
    job = load_resolved(source.facts.job, origin=source.place)
    from gen_dist.registry.cursor import recorded_run
    from gen_dist.registry.publish import publish as register

    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or arithmetic.tracking_uri(job)
    if "***" in uri:
        remedy = "set MLFLOW_TRACKING_URI to the whole address"
        raise RegistryError(f"{source.place}: tracking.uri={uri}: its password is not kept; {remedy}")
    with registry(uri) as (_, uri):
        run_id = recorded_run(Path(arithmetic.run_folder(job)), uri)
        prompts = job.train.prompts[:4] or [""]
        published = register(job, source, run_id=run_id, tracking_uri=uri, sample_prompts=prompts)
    if as_json:
        print_report({"name": published.name, "version": published.version, "uri": published.uri})
    else:
        print(f"{'candidate':<10} {published.name}/{published.version}, from {source.place}")


def _say(name: str, moved: Moved, *, as_json: bool) -> None:
    entry = moved.state.audit[-1]
    if as_json:
        print_report(_facts(name, moved, entry))
        return
    changes = [f"{alias} {entry['from'][alias] or 'none'} -> {to or 'none'}" for alias, to in entry["to"].items()]
    forced = ", forced" if moved.forced else ""
    print(f"{entry['action']:<10} {name}/{entry['version']}{forced}{': ' + ', '.join(changes) if changes else ''}")


def _facts(name: str, moved: Moved, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "version": entry["version"],
        "action": entry["action"],
        "aliases": moved.state.aliases,
        "gates": [result.facts() for result in moved.results],
        "forced": moved.forced,
    }
