"""CheckpointError: a checkpoint that cannot be used, and what to do about it."""

from __future__ import annotations

from gen_dist.job.errors import GenDistError


class CheckpointError(GenDistError):
    """A folder that is no checkpoint, or one that does not fit the run."""
