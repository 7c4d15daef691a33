"""PlanError: a plan that cannot be made, in one line with its remedy."""

from __future__ import annotations

from gen_dist.job.errors import GenDistError


class PlanError(GenDistError):
    """A question that has no answer: an unknown GPU, a number of workers that the batch does not divide by."""
