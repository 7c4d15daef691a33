"""checkpoint-blocking: time that training stands still for a checkpoint, over that of DeepSpeed's save_checkpoint.

At most 0.15 is wanted. See `tests/speed/checkpoint/__init__.py`.
"""

from __future__ import annotations

from tests.speed.checkpoint.turns import NUM_ROUNDS, STAGES, chosen, compared, ready, result, save_in_turns
from tests.speed.sides import Result


def run(*, only: str, tiny: bool) -> Result:
    """Measure the cases whose name begins with `only`."""
    cases = {}
    for name in chosen(only):
        with ready(STAGES[name], tiny=tiny) as (ranks, folder, parameters):
            rounds = save_in_turns(ranks, folder, num_rounds=1 if tiny else NUM_ROUNDS)
        ours, theirs = [one.blocked_s for one in rounds], [one.theirs_s for one in rounds]
        cases[name] = compared(ours, theirs, parameters=parameters)
    return result(cases)
