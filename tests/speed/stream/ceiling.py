"""stream-ceiling: four epochs of JPEGs, 256 px, over the bare decoder in two threads on bytes in memory.

`server`: from the server, at most 1.15 is wanted. All that is not decoding counts: the start, the transfer, and the
server itself, which runs on the same processors. The start takes a tenth of one such epoch, which is over in 4 s; no
decoded image is kept. `folder`: the same tars from the page cache, which is what the reader costs by itself. `ratio` is
that of the worse of both.
"""

from __future__ import annotations

from tests.speed.sides import Result
from tests.speed.stream.bed import run_bed
from tests.speed.stream.turns import Side, chosen, per_sample, sizes, take_turns
from tests.speed.stream.vs_peers import SHARDS

NUM_ROUNDS = 5
PART: dict[str, int | str] = {"num_epochs": 4}
CASES = {"server": Side("ours", part=PART), "folder": Side("folder", part=PART)}


def run(*, only: str, tiny: bool) -> Result:
    """Measure the cases whose name begins with `only`."""
    cases = chosen(CASES, only)
    num_rounds = 1 if tiny else NUM_ROUNDS
    with run_bed(sizes(SHARDS, tiny=tiny), readers=["ours"]) as bed:
        turns = {
            name: take_turns(bed, ours, {name: Side("bare", part=PART)}, num_rounds=num_rounds)[name]
            for name, ours in cases.items()
        }
        return per_sample(turns)
