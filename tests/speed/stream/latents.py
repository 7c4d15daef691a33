"""stream-latents: processor time for four epochs of latents and text embeddings over that of webdataset's `.decode()`.

A sample is 4 x 32 x 32 and 77 x 768 numbers of fp16 in two .npy members, 126 KB; an epoch has 3 GB. At most 0.2 is
wanted. What a run pays once (its connections, and a gigabyte of memory to shuffle among, touched for the first time) is
a third of our time for one such epoch, for which the ratio was 0.246. `ratio_of_wall` measures the server as well: on
the same processors, it takes as long for a sample as all that reads it.
"""

from __future__ import annotations

from tests.speed.sides import Result
from tests.speed.stream.bed import run_bed
from tests.speed.stream.shards import Shards
from tests.speed.stream.turns import Side, chosen, per_sample, sizes, take_turns

SHARDS = Shards("latents", num_shards=48, shard_samples=512)
NUM_ROUNDS = 3
PART: dict[str, int | str] = {"num_epochs": 4}
CASES = {"webdataset": Side("webdataset", num_workers=2, part=PART)}


def run(*, only: str, tiny: bool) -> Result:
    """Measure the one case."""
    cases = chosen(CASES, only)
    with run_bed(sizes(SHARDS, tiny=tiny), readers=list(cases)) as bed:
        rounds = take_turns(bed, Side("ours", part=PART), cases, num_rounds=1 if tiny else NUM_ROUNDS)
        return per_sample(rounds, of="cpu")
