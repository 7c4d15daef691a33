"""CheckpointError: a checkpoint that cannot be used. FencedError: a worker group whose checkpoints count no more."""

from __future__ import annotations

from gen_dist.job.errors import GenDistError


class CheckpointError(GenDistError):
    """A checkpoint that is damaged, or that does not fit the run. Trouble with the store is a StoreError instead."""


class FencedError(CheckpointError):
    """A newer worker group has begun: this one must end, and nothing that it writes counts any more."""
