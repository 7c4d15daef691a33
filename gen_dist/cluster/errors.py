"""JobsError: a cluster that does not take a job, or does not answer about one."""

from __future__ import annotations

from gen_dist.job.errors import GenDistError


class JobsError(GenDistError):
    """What went wrong between this machine and the Jobs API of a cluster, and what to do."""
