"""`gen-dist models list, show, compare, history`: nothing is moved, except that MLflow's aliases are set right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from gen_dist.cli.json_report import print_report
from gen_dist.cli.models.options import Json, TrackingUri, meant, registry

MOST_SCORES = 3  # in a row of a list; `show` has all


def listing(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The versions of this model.")] = "",
    tracking_uri: TrackingUri = "",
    as_json: Json = False,
) -> None:
    """List the registered models, or the versions of one."""
    with registry(tracking_uri) as (client, uri):
        from gen_dist.registry import look

        if not name:
            facts: list[dict[str, Any]] = look.models(client, uri)
        else:
            facts = look.versions(meant(client, name, uri)[0])
    if as_json:
        print_report(facts)
        return
    if not facts:
        print("no registered model yet; a run that ends registers one")
        return
    _table(_model_rows(facts) if not name else _version_rows(facts))
    for line in filter(None, (fact.get("trouble") for fact in facts)):
        print(f"warning    {line}")


def show(
    model: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|/VERSION]", help="A bare NAME means its champion.")],
    tracking_uri: TrackingUri = "",
    as_json: Json = False,
) -> None:
    """Show one version: where it comes from, its scores, what its gates said, and which aliases name it.

    The ledger beside the exported models decides aliases. Where MLflow's differ, they are set right, and this says so.
    """
    with registry(tracking_uri) as (client, uri):
        from gen_dist.registry import look

        registered, version = meant(client, model, uri)
        facts = look.show(registered, version if version is not None else look.default(registered))
    if as_json:
        print_report(facts)
        return
    pinned = f", pinned ({facts['pinned']})" if facts["pinned"] else ""
    print(f"{'model':<15} {facts['name']}/{facts['version']}{_in_brackets(facts['aliases'])}{pinned}")
    for key in ("made", "source", "run_id", "ledger"):
        print(f"{key.replace('_id', ''):<15} {facts[key]}")
    for key, value in facts["lineage"].items():
        print(f"{key.replace('_', ' '):<15} {value}")
    for name, score in facts["scores"].items():
        print(f"{'score':<15} {name} {score['value']:.6g} on {score['measured_on']}")
    for name, said in sorted(facts["gate_results"].items()):
        print(f"{'gate':<15} {name}: {said}")
    for line in facts["repaired"]:
        print(f"{'repaired':<15} {line}")


def compare(
    one: Annotated[str, typer.Argument(metavar="A", help="NAME/VERSION or NAME@ALIAS.")],
    other: Annotated[str, typer.Argument(metavar="B", help="NAME/VERSION or NAME@ALIAS.")],
    tracking_uri: TrackingUri = "",
    as_json: Json = False,
) -> None:
    """Compare two versions: scores, lineage, and what differs in their jobs."""
    with registry(tracking_uri) as (client, uri):
        from gen_dist.registry import look

        pairs = [meant(client, text, uri) for text in (one, other)]
        known = [(its, version if version is not None else look.default(its)) for its, version in pairs]
        facts = look.compare(known[0], known[1])
    if as_json:
        print_report(facts)
        return
    rows = [("", *facts["versions"], "difference")]
    for name, score in facts["scores"].items():
        note = "" if score["same_data"] is not False else " (other data)"
        change = f"{score['difference']:+.4g}{note}" if score["difference"] is not None else ""
        rows.append((name, *(_number(value) for value in score["values"]), change))
    for part in ("lineage", "job"):
        for key, (a, b) in facts[part].items():
            rows.append((f"{part} {key}", _short(a), _short(b), ""))
    _table(rows)
    if not facts["lineage"] and not facts["job"]:
        print("their lineage and their jobs are equal")


def history(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")],
    tracking_uri: TrackingUri = "",
    as_json: Json = False,
) -> None:
    """Show the audit of a model: who moved which alias, when, from where to where, and why.

    Exit code 1: the audit is not as it was written.
    """
    with registry(tracking_uri) as (client, uri):
        from gen_dist.registry import look

        facts = look.history(meant(client, name, uri)[0])
    if as_json:
        print_report(facts)
    else:
        for entry in facts["audit"]:
            print(_audited(entry))
        if facts["fault"]:
            print(f"warning    {facts['ledger']}: {facts['fault']}")
    if facts["fault"]:
        raise typer.Exit(1)


def _audited(entry: Mapping[str, Any]) -> str:
    moves = [f"{alias} {entry['from'].get(alias) or 'none'} -> {to or 'none'}" for alias, to in entry["to"].items()]
    failed = [gate["gate"] for gate in entry["gates"] if not gate["passed"]]
    parts = [", ".join(moves)]
    if entry["gates"]:
        parts.append(f"failed {', '.join(failed)}" if failed else f"{len(entry['gates'])} gates passed")
    parts += ["forced"] if entry.get("forced") else []
    parts += [entry["why"]] if entry["why"] else []
    said = "; ".join(part for part in parts if part)
    version = f" {entry['version']}" if entry["version"] else ""
    return f"{entry['at']}  {entry['by']}  {entry['action']}{version}{f': {said}' if said else ''}"


def _model_rows(facts: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    aliases = ("champion", "previous", "candidate", "latest")
    rows = [
        (fact["name"], str(fact["num_versions"]), *(fact["aliases"].get(a, "-") for a in aliases)) for fact in facts
    ]
    return [("model", "versions", *aliases), *rows]


def _version_rows(facts: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    names = sorted({name for fact in facts for name in fact["scores"]})
    shown = sorted(names, key=lambda name: not name.startswith("heldout/"))[:MOST_SCORES]
    rows = []
    for fact in facts:
        held = ", ".join([*fact["aliases"], *(["pinned"] if fact["pinned"] else [])])
        images = f"{fact['images']:,}" if fact["images"] is not None else "?"
        rows.append(
            (fact["version"], held or "-", images, fact["made"], *(_number(fact["scores"].get(n)) for n in shown))
        )
    return [("version", "aliases", "images", "made", *shown), *rows]


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 48 else f"{text[:47]}…"


def _in_brackets(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
