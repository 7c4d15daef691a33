"""The samples that a run reads, found and looked at as it begins; what the doctor looks at as well."""

from __future__ import annotations

from gen_dist.data.sequential import Unindexed, check_unindexed, find_unindexed
from gen_dist.data.source import Data, check_data
from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.recipes import catalog
from gen_dist.train.sizes import bucket_sizes


def find_samples(job: JobSpec) -> tuple[Data, Data | None] | tuple[Unindexed, Unindexed | None]:
    """The training and held-out samples, each with all that the recipe reads. Raises: DataError, StoreError."""
    recipe = catalog.build(job.recipe, job.model)
    bucket_sizes(job, recipe)  # refused here, before workers start
    unindexed = find_unindexed(job.data, made_with=recipe.made_with())
    if unindexed is None:
        return check_data(job.data, fields=recipe.batch, made_with=recipe.made_with())
    unindexed[0].check_workers(arithmetic.world_sizes(job)[-1])
    for found in filter(None, unindexed):
        check_unindexed(found, fields=recipe.batch, spec=job.data)
    return unindexed
