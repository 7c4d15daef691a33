"""`gen-dist submit, jobs, logs, stop, resume`: a run on a cluster, from the laptop in front of you."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gen_dist.cli.json_report import print_report

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

    from gen_dist.cluster.client import Jobs
    from gen_dist.cluster.submit import Submitted
    from gen_dist.job.spec import JobSpec

MOST_LOGS = 20  # that a list reads: of the newest trainings

Cluster = Annotated[
    str, typer.Option("--cluster", metavar="URL", help="The head's dashboard, http://HEAD:8265; else GENDIST_CLUSTER.")
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="A job, such as quickstart-1; or a run: its newest job.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, errors included.")]
Follow = Annotated[bool, typer.Option("-f", "--follow", help="Stay to its end. Exit code 0: it succeeded, else 1.")]


def submit(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Job file, such as jobs/quickstart.toml.")],
    cluster: Cluster = "",
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key. Repeatable.")
    ] = [],  # noqa: B006
    env: Annotated[
        list[str], typer.Option("--env", metavar="NAME[=VALUE]", help="Hand over a variable; no secrets. Repeatable.")
    ] = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over: checkpoints of the run count no more.")] = False,
    follow: Follow = False,
    as_json: Json = False,
) -> None:
    """Send a job to a Ray cluster, with the code of this machine; the same command again resumes its run.

    Credentials do not travel: the cluster's machines have their own.
    """
    import os

    from gen_dist.job.load import load_job

    spec = load_job(job, overrides, away=True)
    from gen_dist.cluster.submit import environment
    from gen_dist.cluster.submit import submit as send

    variables = environment(env, os.environ)
    jobs = _jobs(cluster)
    _sent(jobs, spec, send(jobs, spec, env=variables, fresh=fresh), follow=follow, as_json=as_json)


def resume(job_id: JobId, cluster: Cluster = "", follow: Follow = False, as_json: Json = False) -> None:
    """Send the job of an ended one again: the same run, from its newest checkpoint."""
    from gen_dist.cluster.submit import resume as send

    jobs, job = _job(job_id, cluster)
    _sent(jobs, *send(jobs, job), follow=follow, as_json=as_json)


def listed(cluster: Cluster = "", as_json: Json = False) -> None:
    """List the trainings that were submitted to a cluster, oldest first."""
    jobs = _jobs(cluster)
    from gen_dist.cluster import listing
    from gen_dist.cluster.client import UnreadableLogError

    ours = listing.trainings(jobs.list())
    rows = []
    for position, job in enumerate(ours):
        log = ""
        if position >= len(ours) - MOST_LOGS:
            try:
                log = jobs.log(str(job.submission_id))
            except UnreadableLogError:
                log = ""
        rows.append(listing.training(job, log))
    if as_json:
        print_report([asdict(row) for row in rows])
        return
    if not rows:
        print(f"no training was submitted to {jobs.url}; gen-dist submit JOB does")
        return
    from gen_dist.cli.progress import seconds

    print(f"{'job':<24} {'run':<20} {'state':<10} {'images':>12} {'started':<19} took")
    for row in rows:
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.started_s)) if row.started_s else ""
        came = f"{row.images:,}" if row.images is not None else ""
        took = seconds(row.took_s) if row.took_s is not None else ""
        print(f"{row.job_id:<24} {row.run:<20} {row.state:<10} {came:>12} {begun:<19} {took}")


def logs(job_id: JobId, cluster: Cluster = "", follow: Follow = False, as_json: Json = False) -> None:
    """Print what a job has said; with -f follow it to its end, over broken connections."""
    jobs, job = _job(job_id, cluster)
    from gen_dist.cluster import listing

    job_id, state = str(job.submission_id), listing.state(job)
    if follow:
        state = _followed(jobs, job_id, sys.stderr if as_json else sys.stdout)
    if as_json:
        print_report({"job": job_id, "state": state, "log": jobs.log(job_id)})
    elif not follow:
        sys.stdout.write(jobs.log(job_id))
    if follow:
        raise typer.Exit(0 if state == "succeeded" else 1)


def stop(job_id: JobId, cluster: Cluster = "", as_json: Json = False) -> None:
    """End a training: it saves a checkpoint first. Waits until it has ended."""
    jobs, job = _job(job_id, cluster)
    from gen_dist.cluster import listing
    from gen_dist.cluster.errors import JobsError

    job_id = str(job.submission_id)
    if job.status.is_terminal():
        raise JobsError(f"{job_id} is over: {listing.state(job)}; `gen-dist resume {job_id}` goes on with its run")
    seen = len(jobs.log(job_id))
    jobs.stop(job_id)
    state = _followed(jobs, job_id, sys.stderr if as_json else sys.stdout, seen=seen)
    log = jobs.log(job_id)
    came = listing.images(log)
    facts = {"job": job_id, "state": state, "images": came, "resume": _typed(jobs, job_id, "resume")}
    if as_json:
        print_report(facts)
        return
    print(f"{state:<10} {job_id}" + (f" after {came:,} images" if came is not None else ""))
    if came is not None and not listing.ended_by_itself(log):
        print("warning    its driver was ended before it had saved; it goes on from the checkpoint before")
    print(f"{'resume':<10} {facts['resume']}")


def _sent(jobs: Jobs, job: JobSpec, sent: Submitted, *, follow: bool, as_json: bool) -> None:
    """Say what was sent and how to go on; with `follow` stay until it is over, and end with how it ended."""
    from gen_dist.cluster.address import remember
    from gen_dist.job import arithmetic
    from gen_dist.registry.secrets import without_secrets

    remember(sent.job_id, jobs.url)
    uri = without_secrets(arithmetic.tracking_uri(job))
    served = uri.startswith(("http://", "https://"))
    facts: dict[str, Any] = {
        "job": sent.job_id,
        "cluster": jobs.url,
        "run": job.name,
        "package_bytes": sent.package_bytes,
        "dashboard_page": f"{jobs.url}/#/jobs/{sent.job_id}",
        "mlflow_page": f"{uri.rstrip('/')}/#/experiments" if served else None,
        "experiment": job.tracking.experiment,
        "follow": _typed(jobs, sent.job_id, "logs", "-f"),
        "stop": _typed(jobs, sent.job_id, "stop"),
        "resume": _typed(jobs, sent.job_id, "resume"),
        "notes": sent.notes,
    }
    if not as_json:
        _tell(facts)
    state = ""
    if follow:
        state = _followed(jobs, sent.job_id, sys.stderr if as_json else sys.stdout)
        facts["state"] = state
    if as_json:
        print_report(facts)
    if follow:
        raise typer.Exit(0 if state == "succeeded" else 1)


def _tell(facts: dict[str, Any]) -> None:
    lines = {
        "job": f"{facts['job']} on {facts['cluster']}, {facts['package_bytes'] / 2**20:.1f} MiB of code sent",
        "watch": facts["dashboard_page"],
        "curves": facts["mlflow_page"] and f"{facts['mlflow_page']} ({facts['experiment']}, run {facts['run']})",
        "follow": facts["follow"],
        "stop": facts["stop"],
        "resume": facts["resume"],
    }
    for name, value in lines.items():
        if value:
            print(f"{name:<10} {value}")
    for note in facts["notes"]:
        print(f"{'note':<10} {note}")
    sys.stdout.flush()


def _followed(jobs: Jobs, job_id: str, out: Any, *, seen: int = 0) -> str:
    """Pass the log on until the job is over; how it ended. Ctrl-C leaves the job alone."""
    from gen_dist.cluster.follow import follow
    from gen_dist.cluster.listing import state, why

    def write(text: str) -> None:
        out.write(text)
        out.flush()

    try:
        job = follow(jobs, job_id, write, seen=seen)
    except KeyboardInterrupt:
        again, end = _typed(jobs, job_id, "logs", "-f"), _typed(jobs, job_id, "stop")
        print(f"\n{job_id} goes on: {again} follows it again, {end} ends it", file=sys.stderr)
        raise typer.Exit(130) from None
    if reason := why(job):
        print(f"{'failed':<10} {reason}", file=sys.stderr)
    return state(job)


def _jobs(cluster: str, job_id: str = "") -> Jobs:
    """The cluster that is meant."""
    from gen_dist.cluster.address import address
    from gen_dist.cluster.client import Jobs

    return Jobs(address(cluster, job_id=job_id))


def _job(job_id: str, cluster: str) -> tuple[Jobs, JobDetails]:
    """The job that is meant, and its cluster. Raises: UnknownJobError."""
    jobs = _jobs(cluster, job_id)
    from gen_dist.cluster.address import submitted_to
    from gen_dist.cluster.client import UnknownJobError
    from gen_dist.cluster.listing import meant

    job, there = meant(job_id, jobs.list())
    if job is not None:
        return jobs, job
    elsewhere = submitted_to(job_id)
    if elsewhere and elsewhere != jobs.url:
        raise UnknownJobError(f"{job_id}: no such job at {jobs.url}; it was submitted to --cluster {elsewhere}")
    raise UnknownJobError(
        f"{job_id}: no such job at {jobs.url}; {there}. A head that was started anew knows no job from before: submit"
        " the job file again, and its run goes on"
    )


def _typed(jobs: Jobs, job_id: str, *words: str) -> str:
    """The command that a person types next; it names the cluster where that does not follow from the id."""
    from gen_dist.cli.program import typed
    from gen_dist.cluster.address import address
    from gen_dist.cluster.errors import JobsError

    try:
        found = address("", job_id=job_id)
    except JobsError:
        found = ""
    return typed("gen-dist", [*words, job_id, *([] if found == jobs.url else ["--cluster", jobs.url])])
