"""RegistryError: a model that cannot be found or published, and what to do about it."""

from __future__ import annotations

from gen_dist.job.errors import GenDistError


class RegistryError(GenDistError):
    """No such model, or MLflow did not do what it was asked for."""
