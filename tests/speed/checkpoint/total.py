"""checkpoint-total: time until a checkpoint is committed, over that of DeepSpeed's save_checkpoint.

At most 1.2 is wanted, though ours is hashed and flushed to the disk and theirs is neither; `theirs_flushed_s` is the
time until theirs is flushed too. See `tests/speed/checkpoint/__init__.py`.
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
            rounds = save_in_turns(ranks, folder, state.save_ours, num_rounds=1 if tiny else NUM_ROUNDS)
        ours, theirs = [one.ours[0] for one in rounds], [one.theirs_s for one in rounds]
        flushed_s = statistics.median(one.flushed_s for one in rounds)
        cases[name] = compared(ours, theirs, parameters=parameters, theirs_flushed_s=flushed_s)
    return result(cases)
