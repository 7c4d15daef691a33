"""Where bytes live: one small interface over folders, the embedded data sets and S3 buckets."""

from __future__ import annotations

from gen_dist.store.base import ConflictError, MissingError, NoBucketError, ObjectInfo, Store, StoreError
from gen_dist.store.stats import StoreStats
from gen_dist.store.url import open_store

__all__ = [
    "ConflictError",
    "MissingError",
    "NoBucketError",
    "ObjectInfo",
    "Store",
    "StoreError",
    "StoreStats",
    "open_store",
]
