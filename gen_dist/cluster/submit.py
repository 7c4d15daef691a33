"""submit: a job sent to a cluster with the code of this machine, once everything that can be known here is right."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.job_submission import JobDetails

from gen_dist.cluster import listing
from gen_dist.cluster.checks.room import Node
from gen_dist.cluster.client import Jobs
from gen_dist.cluster.errors import JobsError
from gen_dist.cluster.module import entrypoint, pinned
from gen_dist.cluster.package import embedded_of, pack
from gen_dist.cluster.preflight import look_from_here, room_for
from gen_dist.cluster.secrecy import addresses_with_secrets, is_secret, secret_values
from gen_dist.job import arithmetic
from gen_dist.job.load import load_resolved, resolve
from gen_dist.job.spec import JobSpec
from gen_dist.registry.secrets import without_secrets

HERE = "auto"
"""As cluster.address: the Ray cluster that the driver runs on."""
JOB_FILE = "job.resolved.json"
ENV = "gen_dist.env"
CODE = "gen_dist.code"
RESUME = "GENDIST_RESUME"
"""Tells the driver the command that goes on with its run."""
MOST_JOB_BYTES = 96 * 2**10  # Ray hands it to the driver in a variable, which Linux holds to 128 KiB
MOST_TRIES = 20
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Submitted:
    """A job that a cluster has taken."""

    job_id: str
    package_bytes: int
    notes: list[str]
    """What this machine cannot see for itself, a line each."""


def submit(jobs: Jobs, job: JobSpec, *, env: Mapping[str, str], fresh: bool = False) -> Submitted:
    """Send a job that was loaded with `away`. With `fresh` its run starts over.

    Raises: JobsError where the cluster does not match or trains this run already, or something secret would travel.
    """
    elsewhere = job.cluster.address if job.cluster.address != HERE else ""
    job = job.model_copy(update={"cluster": job.cluster.model_copy(update={"address": HERE})})
    resolved = json.dumps(resolve(job), separators=(",", ":")).encode()
    nodes, notes = check(jobs, job, resolved, env)
    package = pack(pinned({JOB_FILE: resolved}), embedded=embedded_of(job))
    metadata = {
        listing.RUN: arithmetic.checkpoints_url(job),
        listing.NAME: job.name,
        listing.JOB: resolved.decode(),
        ENV: json.dumps(dict(env)),
        CODE: package.code_digest,
    }
    command = entrypoint("gen_dist.cli", ["train", JOB_FILE, *(["--fresh"] if fresh else [])])
    for _ in range(MOST_TRIES):  # others may take the number while this is under way
        known = jobs.list()
        _refuse_a_second(job, known)
        job_id = listing.next_id(job.name, known)
        again = {RESUME: f"gen-dist resume {job_id}"}
        if jobs.submit(command, job_id=job_id, package=package.data, env={**env, **again}, metadata=metadata):
            return Submitted(job_id, len(package.data), [*notes, *_notes(job, len(nodes), elsewhere)])
    raise JobsError(f"{jobs.url}: others took every number of {job.name} that was tried; run the same command again")


def check(jobs: Jobs, job: JobSpec, resolved: bytes, env: Mapping[str, str]) -> tuple[list[Node], list[str]]:
    """All that is looked at before anything is sent: what takes seconds, and can be known without a worker.

    Returns the machines of the cluster, and notes. Raises: JobsError.
    """
    refuse_secrets(job, env)
    if len(resolved) > MOST_JOB_BYTES:
        raise JobsError(
            f"{job.name}: the job takes {len(resolved) / 1024:.0f} KiB as JSON, and a cluster takes"
            f" {MOST_JOB_BYTES // 1024} KiB; shorten train.prompts"
        )
    jobs.check_versions()
    nodes = jobs.nodes()
    room = room_for(job, nodes)
    return nodes, [*([room] if room else []), *look_from_here(job)]


def resume(jobs: Jobs, job: JobDetails) -> tuple[JobSpec, Submitted]:
    """Send the job of an ended one again: it goes on from the newest checkpoint. Raises: JobsError."""
    job_id, facts = job.submission_id, job.metadata or {}
    if listing.JOB not in facts:
        raise JobsError(f"{job_id}: no training of gen-dist; `gen-dist jobs --cluster {jobs.url}` lists them")
    if job.status.is_terminal() and listing.state(job) == "succeeded":
        raise JobsError(
            f"{job_id} is done; to learn from more images, submit its job file with a larger train.total_images"
        )
    if not job.status.is_terminal():
        raise JobsError(
            f"{job_id} is {listing.state(job)}: it needs no resuming; `gen-dist logs -f {job_id}` follows it"
        )
    spec = load_resolved(json.loads(facts[listing.JOB]), origin=f"{job_id} at {without_secrets(jobs.url)}")
    sent = submit(jobs, spec, env=json.loads(facts.get(ENV, "{}")))
    if facts.get(CODE) == jobs.get(sent.job_id).metadata.get(CODE):
        return spec, sent
    return spec, Submitted(sent.job_id, sent.package_bytes, [*sent.notes, f"the code is not that of {job_id}"])


def environment(words: list[str], environ: Mapping[str, str]) -> dict[str, str]:
    """What `--env NAME` and `--env NAME=VALUE` ask to hand over. Raises: JobsError for secrets and missing names."""
    found, secrets = {}, secret_values(environ).values()
    for word in words:
        name, given, value = word.partition("=")
        if not _VARIABLE.fullmatch(name):
            raise JobsError(f"--env {name!r}: not the name of a variable; write --env NAME or --env NAME=VALUE")
        if not given and name not in environ:
            raise JobsError(f"--env {name}: no such variable here; set it, or write --env {name}=VALUE")
        found[name] = value if given else environ[name]
        named = is_secret(name) or without_secrets(found[name]) != found[name]
        if named or any(secret in found[name] for secret in secrets):
            raise JobsError(
                f"--env {name}: a secret, which must not travel with a job (Ray keeps and shows what does); set it in"
                " the environment of the cluster's machines"
            )
    return found


def refuse_secrets(job: JobSpec, env: Mapping[str, Any]) -> None:
    """Raises: JobsError where an address of the job or of the variables names a user or a password."""
    keys = [*addresses_with_secrets(resolve(job)), *addresses_with_secrets(env)]
    if keys:
        raise JobsError(
            f"{job.name}: {keys[0]} names a user or a password, which must not travel with a job; write the address"
            " without them, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or AWS's keys, in the"
            " environment of the cluster's machines"
        )


def _refuse_a_second(job: JobSpec, known: list[JobDetails]) -> None:
    other = listing.under_way(arithmetic.checkpoints_url(job), known)
    if other is not None:
        at = other.submission_id
        raise JobsError(
            f"{job.name}: {at} trains this run already ({listing.state(other)}); `gen-dist logs -f {at}` follows it,"
            f" `gen-dist stop {at}` ends it, and another --set name=... is another run"
        )


def _notes(job: JobSpec, num_nodes: int, elsewhere: str) -> list[str]:
    """What only a person can see to. `elsewhere`: another cluster that the job file names."""
    found = []
    if elsewhere:
        found.append(f"cluster.address={elsewhere!r} counts for `gen-dist train` alone: this job was sent to --cluster")
    if num_nodes > 1:
        places = [f"run.folder = {job.run.folder}"]
        if "://" not in arithmetic.checkpoints_url(job) and job.run.checkpoints:
            places.append(f"run.checkpoints = {job.run.checkpoints}")
        found.append(
            f"all {num_nodes} machines of the cluster must see {' and '.join(places)} as one shared folder"
            + ("" if job.run.checkpoints else "; checkpoints lie there too, unless run.checkpoints names s3://")
        )
    if not job.tracking.uri:
        found.append(
            f"MLflow keeps its record in {job.run.folder} there; tracking.uri names a server to watch from here"
        )
    return found
