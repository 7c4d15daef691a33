"""checkpoint-blocking: time that training stands still for a checkpoint, over that of DeepSpeed's save_checkpoint.

At most 0.15 is wanted. Ours goes on with a step meanwhile: it stands still until that may begin, and before the
optimizer's part for what is not yet copied. `delay_s` is by how much that stretch of the step takes longer in all: two
workers share two cores with their copies, their hashing and their writing, and the step has to wait for its turn there.
A GPU copies beside its kernels, and its host has cores to spare. See `tests/speed/checkpoint/__init__.py`.
"""

from __future__ import annotations

import statistics

from tests.speed.checkpoint import state
from tests.speed.checkpoint.turns import NUM_ROUNDS, STAGES, chosen, compared, ready, result, save_in_turns
from tests.speed.sides import Result


def run(*, only: str, tiny: bool) -> Result:
    """Measure the cases whose name begins with `only`."""
    cases = {}
    for name in chosen(only):
        with ready(STAGES[name], tiny=tiny) as (ranks, folder, parameters):
            rounds = save_in_turns(ranks, folder, state.save_and_train, num_rounds=1 if tiny else NUM_ROUNDS)
        still, delays, bare = zip(*(one.ours for one in rounds), strict=True)
        more = {"delay_s": statistics.median(delays), "step_s": statistics.median(bare)}
        cases[name] = compared(still, [one.theirs_s for one in rounds], parameters=parameters, **more)
    return result(cases)
