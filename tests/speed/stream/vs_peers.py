"""stream-vs-peers: an epoch of JPEGs, 256 px, over that of webdataset, litdata and mosaicml-streaming.

Everyone decodes with simplejpeg, exactly (no fast DCT), to batches of 64 as uint8 tensors. `ratio` is that of the
quickest peer; at most 0.8 is wanted, and at most 0.45 of webdataset.
"""

from __future__ import annotations

from tests.speed.sides import Result
from tests.speed.stream.bed import run_bed
from tests.speed.stream.shards import Shards
from tests.speed.stream.turns import Side, chosen, per_sample, sizes, take_turns

SHARDS = Shards("jpeg", num_shards=4, shard_samples=3840)
NUM_ROUNDS = 5
# Two processors: two workers were quicker than one for each of them, and none far slower where it was tried.
PEERS = {name: Side(name, num_workers=2) for name in ("webdataset", "litdata", "mosaic")}


def run(*, only: str, tiny: bool) -> Result:
    """Measure the peers whose name begins with `only`."""
    peers = chosen(PEERS, only)
    with run_bed(sizes(SHARDS, tiny=tiny), readers=list(peers)) as bed:
        return per_sample(take_turns(bed, Side("ours"), peers, num_rounds=1 if tiny else NUM_ROUNDS))
