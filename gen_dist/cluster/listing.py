"""The trainings among the jobs of a cluster: which they are, how they stand and how far they came. Plain values."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ray.job_submission import JobDetails, JobStatus

from gen_dist.job.problem import choose

RUN = "gen_dist.run"
"""In the metadata of a job: the address of its checkpoints, which is what makes two jobs one run."""
JOB = "gen_dist.job"
"""In the metadata of a job: the whole job, as JSON."""
NAME = "gen_dist.name"
"""In the metadata of a job: the name of its run."""
MOST_LETTERS = 300
_STOPPED_BY = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_IMAGES = re.compile(r"^\s*([\d,]+)/([\d,]+) images  ", re.MULTILINE)
_END = re.compile(r"^(?:done|stopped) +([\d,]+) images in ", re.MULTILINE)


@dataclass(frozen=True)
class Training:
    """One row of `gen-dist jobs`."""

    job_id: str
    run: str
    state: str
    """pending, running, succeeded, failed or stopped."""
    images: int | None
    """Learned from so far, as its log says; None where it says nothing yet."""
    started_s: float | None
    took_s: float | None


def trainings(jobs: Iterable[JobDetails]) -> list[JobDetails]:
    """Those that gen-dist submitted as trainings, oldest first."""
    ours = [job for job in jobs if job.submission_id and RUN in (job.metadata or {})]
    return sorted(ours, key=lambda job: (job.start_time or 0, job.submission_id))


def state(job: JobDetails) -> str:
    """How it stands. Ray calls a driver that saved and ended after a signal failed."""
    if job.status == JobStatus.FAILED and job.driver_exit_code in _STOPPED_BY:
        return "stopped"
    return str(job.status).lower()


def why(job: JobDetails) -> str:
    """Ray's reason for a failure that the log of the driver does not tell, such as a driver that never started."""
    if job.status != JobStatus.FAILED or job.driver_exit_code is not None:
        return ""
    return " ".join((job.message or "no reason given").split())[:MOST_LETTERS]


def images(log: str) -> int | None:
    """How many images the log of a training tells last."""
    found = [*_IMAGES.finditer(log), *_END.finditer(log)]
    return int(max(found, key=lambda match: match.start())[1].replace(",", "")) if found else None


def ended_by_itself(log: str) -> bool:
    """Whether its last lines are those of a driver that saved and said goodbye."""
    return _END.search(log) is not None


def training(job: JobDetails, log: str) -> Training:
    """A row of a job and its log."""
    begun = job.start_time / 1000 if job.start_time else None
    end = job.end_time / 1000 if job.end_time else time.time()
    return Training(
        job_id=str(job.submission_id),
        run=str((job.metadata or {}).get(NAME, "")),
        state=state(job),
        images=images(log),
        started_s=begun,
        took_s=max(0.0, end - begun) if begun is not None else None,
    )


def next_id(name: str, jobs: Iterable[JobDetails]) -> str:
    """NAME-NUMBER, where NUMBER is above those of all jobs called so."""
    pattern = re.compile(re.escape(name) + r"-(\d+)")
    numbers = [int(match[1]) for job in jobs if (match := pattern.fullmatch(job.submission_id or ""))]
    return f"{name}-{max(numbers, default=0) + 1}"


def under_way(run: str, jobs: Iterable[JobDetails]) -> JobDetails | None:
    """The job that trains this run now."""
    found = [job for job in trainings(jobs) if job.metadata[RUN] == run and not job.status.is_terminal()]
    return found[-1] if found else None


def meant(text: str, jobs: Sequence[JobDetails]) -> tuple[JobDetails | None, str]:
    """The job of this id or, the newest, of the run of this name; None and the trainings that there are."""
    ours = trainings(jobs)
    for job in jobs:
        if job.submission_id == text:
            return job, ""
    for job in reversed(ours):
        if job.metadata.get(NAME) == text:
            return job, ""
    return None, choose(text, [str(job.submission_id) for job in ours])
