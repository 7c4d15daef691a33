"""stream-ceiling: an epoch of JPEGs, 256 px, from the server, over the bare decoder in two threads on bytes in memory.

At most 1.15 is wanted: all that is not decoding costs that much, the server on the same processors included.
"""

from __future__ import annotations

from tests.speed.sides import Result
from tests.speed.stream.bed import run_bed
from tests.speed.stream.turns import Side, chosen, per_sample, sizes, take_turns
from tests.speed.stream.vs_peers import SHARDS

NUM_ROUNDS = 7
CASES = {"bare": Side("bare")}


def run(*, only: str, tiny: bool) -> Result:
    """Measure the one case."""
    cases = chosen(CASES, only)
    with run_bed(sizes(SHARDS, tiny=tiny), readers=["ours"]) as bed:
        return per_sample(take_turns(bed, Side("ours"), cases, num_rounds=1 if tiny else NUM_ROUNDS))
