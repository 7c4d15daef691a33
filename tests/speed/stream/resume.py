"""stream-resume: time until the first batch at 80 % of an epoch, over that of webdataset's fast-forward.

webdataset cannot seek: it reads from the start and drops. `undecoded` drops samples before they are decoded, in both
workers at once, which takes a pipeline made for it; `decoded` drops the batches of the pipeline as it is. `ratio` is
that of the quicker one; at most 0.1 is wanted. 12 shards, 46,080 samples.
"""

from __future__ import annotations

from tests.speed.sides import Result
from tests.speed.stream.bed import run_bed
from tests.speed.stream.shards import Shards
from tests.speed.stream.task import BATCH_SAMPLES
from tests.speed.stream.turns import Side, chosen, sizes, take_turns, to_first_batch

SHARDS = Shards("jpeg", num_shards=12, shard_samples=3840)
NUM_ROUNDS = 5
DROPS = {"undecoded": "samples", "decoded": "batches"}


def run(*, only: str, tiny: bool) -> Result:
    """Measure the ways of dropping whose name begins with `only`."""
    shards = sizes(SHARDS, tiny=tiny)
    part: dict[str, int | str] = {
        "first_sample": shards.num_samples * 8 // 10 // BATCH_SAMPLES * BATCH_SAMPLES,
        "num_batches": 1,
    }
    cases = {name: Side("webdataset", 2, {**part, "drop": drop}) for name, drop in DROPS.items()}
    cases = chosen(cases, only)
    with run_bed(shards, readers=["ours"]) as bed:
        ours = Side("ours", part=part)
        return to_first_batch(take_turns(bed, ours, cases, num_rounds=1 if tiny else NUM_ROUNDS))
