"""Pack: WebDataset shards from pictures in a folder, a table, a Hugging Face data set on disk, or other shards."""

from __future__ import annotations

from gen_dist.data.pack.options import PackOptions, SourceSpec
from gen_dist.data.pack.run import Packed, pack

__all__ = ["PackOptions", "Packed", "SourceSpec", "pack"]
