"""follow: the log of a job as it grows, over broken connections, to the end of the job."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from ray.job_submission import JobDetails

from gen_dist.cluster.client import Jobs, UnreachableError, UnreadableLogError

AGAIN_S = 1.0
GIVE_UP_S = 600.0
"""Without an answer of the cluster for so long nobody follows any more. The job may well go on."""

Write = Callable[[str], None]


def follow(jobs: Jobs, job_id: str, write: Write, *, seen: int = 0, give_up_s: float = GIVE_UP_S) -> JobDetails:
    """Hand the log to `write`, from the letter `seen` on, until the job is over. Returns what became of it.

    Raises: UnknownJobError; UnreachableError after `give_up_s` without an answer.
    """
    away_s: float | None = None
    while True:
        seen = asyncio.run(_listen(jobs, job_id, write, seen))
        try:
            job = jobs.get(job_id)
            rest = _rest(jobs, job_id, seen)  # all of it where no stream comes through, as behind some proxies
        except UnreachableError:
            away_s = time.monotonic() if away_s is None else away_s
            if time.monotonic() - away_s > give_up_s:
                raise
        else:
            away_s = None
            if rest:
                write(rest)
                seen += len(rest)
            if job.status.is_terminal():
                return job
        time.sleep(AGAIN_S)


async def _listen(jobs: Jobs, job_id: str, write: Write, seen: int) -> int:
    """Read the log until its end or that of the connection; each connection begins at its first letter."""
    at = 0
    with contextlib.suppress(UnreachableError):
        async for text in jobs.tail(job_id):
            new = text[max(0, seen - at) :]
            at += len(text)
            seen = max(seen, at)
            if new:
                write(new)
    return seen


def _rest(jobs: Jobs, job_id: str, seen: int) -> str:
    """What came since, such as the line that ended the job; nothing from a machine that is gone."""
    try:
        return jobs.log(job_id)[seen:]
    except UnreadableLogError:
        return ""
