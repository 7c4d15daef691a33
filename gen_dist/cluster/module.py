"""run_module: a module of gen_dist run on the cluster as a job of its own, with its log and its end."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

from gen_dist.cluster.client import Jobs
from gen_dist.cluster.errors import JobsError
from gen_dist.cluster.package import pack
from gen_dist.cluster.pins import PINS, pins

POLL_S = 0.5
MODULE = "gen_dist.module"


@dataclass(frozen=True)
class Ended:
    """How it ended."""

    job_id: str
    succeeded: bool
    """Its exit code was 0."""
    log: str
    """All that it said, on standard output and error, below two lines of Ray's."""
    message: str
    """Ray's own words about the end."""


def entrypoint(module: str, arguments: Sequence[str] = ()) -> str:
    """The command of a shell that runs a module of the packed code, where the versions are those of PINS."""
    check = f"python -m gen_dist.cluster.pins {PINS}"
    return f"{check} && exec python -m {shlex.join([module, *arguments])}"


def pinned(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of a submission with the versions of this environment."""
    return {**files, PINS: json.dumps(pins(), indent=2).encode()}


def run_module(
    jobs: Jobs,
    module: str,
    arguments: Sequence[str] = (),
    *,
    name: str,
    files: Mapping[str, bytes] | None = None,
    embedded: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    node_id: str = "",
    limit_s: float = 600.0,
    watch: Callable[[str], None] | None = None,
) -> Ended:
    """Run `python -m MODULE ARGUMENTS` on the head, or the machine `node_id`, in a folder with the code and `files`.

    `watch` hears the log as it grows, in pieces. The job is called NAME and a random word; it starts in some 10 s.

    Raises: JobsError where the cluster does not match or answer, or it has not ended after `limit_s` and was stopped.
    """
    jobs.check_versions()
    job_id = f"{name}-{uuid4().hex[:8]}"
    package = pack(pinned(files or {}), embedded=embedded)
    jobs.submit(
        entrypoint(module, arguments),
        job_id=job_id,
        package=package.data,
        env=env or {},
        metadata={MODULE: module},
        node_id=node_id,
    )
    give_up_s, seen = time.monotonic() + limit_s, 0
    while True:
        job = jobs.get(job_id)
        log = jobs.log(job_id)
        if watch is not None and len(log) > seen:
            watch(log[seen:])
            seen = len(log)
        if job.status.is_terminal():
            return Ended(job_id, job.driver_exit_code == 0, log, job.message or "")
        if time.monotonic() > give_up_s:
            jobs.stop(job_id)
            raise JobsError(
                f"{job_id}: `python -m {module}` has not ended on {jobs.url} within {limit_s:.0f} s and was stopped;"
                f" `gen-dist logs {job_id}` shows how far it came"
            )
        time.sleep(POLL_S)
