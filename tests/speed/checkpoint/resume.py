"""resume: time to find, verify and load a checkpoint, over that of DeepSpeed's universal conversion and its load.

At most 0.3 is wanted. That is the way by which DeepSpeed loads at another number of workers; ours knows no other way.
See `tests/speed/checkpoint/__init__.py`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from tests.speed.checkpoint import state
from tests.speed.checkpoint.turns import LIMIT_S, NUM_ROUNDS, STAGES, chosen, compared, convert, ready, result
from tests.speed.sides import Result
from tests.support.ranks import Ranks


def run(*, only: str, tiny: bool) -> Result:
    """Measure the cases whose name begins with `only`."""
    cases = {}
    for name in chosen(only):
        with ready(STAGES[name], tiny=tiny) as (ranks, folder, parameters):
            found = _load(ranks, folder, num_rounds=1 if tiny else NUM_ROUNDS)
        cases[name] = {**found, "parameters": parameters}
    return result(cases)


def _load(ranks: Ranks, folder: Path, *, num_rounds: int) -> dict[str, float]:
    ours, theirs = folder / "ours", folder / "theirs"
    ours.mkdir()
    wanted = ranks.run(state.witness, timeout_s=LIMIT_S)
    ranks.run(state.save_ours, ours, 1, timeout_s=LIMIT_S)
    ranks.run(state.save_theirs, theirs, "saved", timeout_s=LIMIT_S)
    os.sync()
    conversion_s = convert(theirs, "saved")
    sides: tuple[list[float], list[float]] = ([], [])
    for _ in range(num_rounds + 1):
        ranks.run(state.fill, 0.5)
        sides[0].append(max(ranks.run(state.load_ours, ours, timeout_s=LIMIT_S)))
        _check("ours", ranks.run(state.witness, timeout_s=LIMIT_S), wanted)
        ranks.run(state.fill, 0.5)
        sides[1].append(conversion_s + max(ranks.run(state.load_theirs, theirs, "saved-universal", timeout_s=LIMIT_S)))
        _check("theirs", ranks.run(state.witness, timeout_s=LIMIT_S), wanted)
    return compared(sides[0][1:], sides[1][1:], conversion_s=conversion_s)


def _check(side: str, found: list[float], wanted: list[float]) -> None:
    if not all(math.isclose(one, other, rel_tol=1e-12) for one, other in zip(found, wanted, strict=True)):
        raise ValueError(f"{side}: loaded {found}, saved {wanted}; the sides do not do the same")
