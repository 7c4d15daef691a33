"""Planned activations against what the allocator of a GPU gave out at the most."""

from __future__ import annotations

import pytest
import torch

from gen_dist.plan.trace import Model
from gen_dist.recipes import catalog
from tests.contract.cases import smoke_job
from tests.contract.plan_truth import phases_with_networks

COUNT = 1024  # images: the smoke jobs' activations then are most of what is allocated
TOLERANCE = 0.15


@pytest.mark.gpu
@pytest.mark.parametrize("recipe", catalog.RECIPES)
def test_planned_activations_are_what_a_gpu_gives_out(recipe: str) -> None:
    job, device = smoke_job(recipe), torch.device("cuda")
    planned = Model(job).costs(COUNT)
    off = {}
    for phase, parameters, ctx, batch in phases_with_networks(job, device, COUNT):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        torch.stack(list(phase.loss(ctx, batch).values())).sum().backward()
        torch.cuda.synchronize()
        most = torch.cuda.max_memory_allocated() - before
        for value in parameters:
            value.grad = None
        off[phase.name] = planned[phase.name].activation_bytes / most - 1.0
    assert all(abs(value) <= TOLERANCE for value in off.values()), off
