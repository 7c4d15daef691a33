"""The index: which samples the shards hold and where their bytes are."""

from gen_dist.data.index.blocks import Blocks
from gen_dist.data.index.find import build_index, find_index, list_shards
from gen_dist.data.index.index import Index, Sample, joined
from gen_dist.data.index.manifest import Manifest, Shard
from gen_dist.data.index.scan import scan_shard
from gen_dist.data.index.table import LeftOut, ShardTable

__all__ = [
    "Blocks",
    "Index",
    "LeftOut",
    "Manifest",
    "Sample",
    "Shard",
    "ShardTable",
    "build_index",
    "find_index",
    "joined",
    "list_shards",
    "scan_shard",
]
