"""What `gen-dist plan` says of memory is what a training takes: model states on two ranks, activations in one process.

Parametrised over the catalog with the jobs of jobs/smoke: a new recipe is held to it before its author writes a test.
"""

from __future__ import annotations

import pytest
import torch

from gen_dist.job.arithmetic import engine_stage
from gen_dist.job.spec import JobSpec
from gen_dist.plan.states import States, group_states
from gen_dist.plan.trace import Model
from gen_dist.recipes import catalog
from tests.contract import plan_truth
from tests.contract.cases import HARDEST, HEIRS, level_stages, smoke_job, trained_at, with_train
from tests.support.ranks import Ranks

STATES_TOLERANCE, ACTIVATIONS_TOLERANCE = 0.02, 0.15
WORKERS = 2
PERSISTENCE_ELEMENTS = 500  # of so small networks, some parameters stay whole and some are split
COUNT = 16  # images of a micro-batch


def job_at(recipe: str, stage: int, precision: str) -> JobSpec:
    """The smoke job as a GPU run would set up its engines."""
    job = with_train(
        smoke_job(recipe),
        zero_stages=level_stages(recipe, stage),
        precision=precision,
        zero3_persistence_elements=PERSISTENCE_ELEMENTS,
    )
    return job.model_copy(update={"cluster": job.cluster.model_copy(update={"use_gpu": True})})


def planned(job: JobSpec) -> tuple[Model, dict[str, States]]:
    model = Model(job)
    states = {
        name: group_states(
            size,
            stage=engine_stage(job, name, WORKERS),
            workers=WORKERS,
            precision=job.train.precision,
            persistence_elements=PERSISTENCE_ELEMENTS,
        )
        for name, size in model.sizes().items()
    }
    return model, states


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.long), "bf16"])
@pytest.mark.parametrize(("recipe", "stage"), trained_at(*catalog.RECIPES, but=HARDEST))
def test_planned_model_states_are_those_that_deepspeed_allocates(
    pair: Ranks, recipe: str, stage: int, precision: str
) -> None:
    job = job_at(recipe, stage, precision)
    ranks = pair.run(plan_truth.held_on_ranks, job)
    model, states = planned(job)
    held = sum(state.persistent - state.held_staging for state in states.values())
    for found in ranks:
        assert found["held"] == pytest.approx(held, rel=STATES_TOLERANCE)
        assert found["buckets"] == sum(state.held_staging for state in states.values())
        for group, state in states.items():
            assert found[f"staging of {group}"] == state.staging
    for name, cost in model.costs(job.train.micro_batch_images).items():
        # a plan is for the worker that has the most of it
        gradients = max(found[name] for found in ranks)
        wanted = states[cost.group].gradients
        # beside them, some of what stage 3 gathered may still be there, or what it left of the phase before may go:
        # at most all that a plan counts for it
        gathered = sum(states[group].gathered for group in cost.called_groups)
        left = sum(state.gathered for state in states.values())
        slack = STATES_TOLERANCE * held
        assert -slack - left <= gradients - wanted <= slack + gathered, name


ACTIVATIONS = [
    *(
        pytest.param(name, "fp32", marks=[pytest.mark.long] if name in (*HEIRS, HARDEST) else [])
        for name in catalog.RECIPES
    ),
    pytest.param(HARDEST, "bf16", marks=pytest.mark.long),
]


@pytest.mark.parametrize(("recipe", "precision"), ACTIVATIONS)
def test_planned_activations_are_what_the_allocator_gives_out(recipe: str, precision: str) -> None:
    torch.set_num_threads(1)
    job = with_train(smoke_job(recipe), precision=precision)
    measured = plan_truth.peaks_on_cpu(job, COUNT)
    costs = Model(job).costs(COUNT)
    assert measured.keys() == costs.keys()
    off = {name: costs[name].activation_bytes / measured[name] - 1.0 for name in costs}
    assert all(abs(value) <= ACTIVATIONS_TOLERANCE for value in off.values()), off
