"""`gen-dist doctor`: what is well with a job and its machines, and what is not, a line each."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from gen_dist.cli.json_report import print_report

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="Job file, such as jobs/quickstart.toml.")]


def doctor(
    job: JobFile,
    cluster: Annotated[
        str, typer.Option(metavar="URL", help="Look from this cluster: its head's dashboard, http://HEAD:8265.")
    ] = "",
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as for train. Repeatable.")
    ] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON, errors included.")] = False,
) -> None:
    """Look at all that a run of this job needs, and say for each thing: ok, what is wrong, what to do.

    Looks from the machines of --cluster, as a job of its own; else of cluster.address; else from this one. Writes next
    to nothing, and removes it again. Exit code 1: something is wrong.
    """
    from gen_dist.cluster.checks.finding import Finding
    from gen_dist.job.load import load_job

    spec = load_job(job, overrides, away=bool(cluster), looks_at_data=False)
    began_s = time.monotonic()

    def say(finding: Finding) -> None:
        if not as_json:
            print(finding.line, flush=True)

    if cluster:
        from gen_dist.cluster.address import address
        from gen_dist.cluster.remote_doctor import examine_from_afar

        findings = examine_from_afar(address(cluster), spec, say)
    else:
        from gen_dist.cluster.doctor import examine

        findings = examine(spec, say)
    counts = {state: sum(finding.state == state for finding in findings) for state in ("wrong", "note", "ok")}
    took_s = time.monotonic() - began_s
    if as_json:
        facts: dict[str, Any] = {"job": spec.name, **counts, "seconds": round(took_s, 1)}
        print_report(facts | {"checks": [finding.to_json() for finding in findings]})
    else:
        print(f"{spec.name}: {counts['wrong']} wrong, {counts['note']} to note, {counts['ok']} ok, in {took_s:.0f} s")
    if counts["wrong"]:
        raise typer.Exit(1)
