"""The index of a run: from the manifest beside the shards, or from the tars themselves where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gen_dist.data.errors import DataError
from gen_dist.data.index.blocks import cut
from gen_dist.data.index.index import Index
from gen_dist.data.index.manifest import NAME, Manifest, shard_of
from gen_dist.data.index.scan import scan_shard
from gen_dist.data.index.table import ShardTable
from gen_dist.job.shards import NO_SHARDS
from gen_dist.store import ObjectInfo, Store


def find_index(store: Store, pattern: str) -> Index:
    """The index of all shards that match a glob.

    Raises: DataError where no shard matches, one is not as it was indexed or no complete tar, or no sample is found;
    StoreError.
    """
    shards = list_shards(store, pattern)
    if not is_indexed(store):
        return build_index(store, shards)
    return _from_manifest(store, shards)


def is_indexed(store: Store) -> bool:
    """Whether a manifest lies beside the shards."""
    return bool(store.list(NAME))


def list_shards(store: Store, pattern: str) -> list[ObjectInfo]:
    """Raises: DataError where there is none."""
    shards = [info for info in store.list(pattern) if not info.name.endswith(NO_SHARDS)]
    if not shards:
        near = [info.name for info in store.list("*")][:5]
        seen = ", ".join(near) if near else "nothing"
        remedy = f"correct the pattern or the url (the top of it holds {seen})"
        raise DataError(f"{store.url}: no shard matches {pattern!r}", remedy=remedy)
    return shards


def build_index(store: Store, shards: list[ObjectInfo]) -> Index:
    """From the headers of all shards, kept in memory."""
    return _not_empty(index_of(store, shards, [scan_headers(store, shard) for shard in shards]))


def scan_headers(store: Store, shard: ObjectInfo) -> ShardTable:
    """The table of one shard, not looked at. Raises: DataError, as `scan_shard`; StoreError."""
    with store.open(shard.name, version=shard.version) as file:
        return scan_shard(file, where=f"{store.url}/{shard.name}", size_bytes=shard.size_bytes)


def index_of(store: Store, shards: Sequence[ObjectInfo], tables: Sequence[ShardTable]) -> Index:
    """The index of shards whose tables are at hand."""
    facts = [
        shard_of(shard.name, shard.size_bytes, shard.version, table)
        for shard, table in zip(shards, tables, strict=True)
    ]
    return Index(facts, cut(tables), store=store, tables=tables)


def _from_manifest(store: Store, shards: list[ObjectInfo]) -> Index:
    manifest = read_manifest(store)
    for fault in faults(store, shards, manifest):
        raise fault
    return _not_empty(index_from(store, shards, manifest))


def read_manifest(store: Store) -> Manifest:
    """Raises: DataError where it is damaged; StoreError."""
    return Manifest.from_bytes(bytes(store.read(NAME)), where=f"{store.url}/{NAME}")


def faults(store: Store, shards: Sequence[ObjectInfo], manifest: Manifest) -> Iterator[DataError]:
    """One error for each shard that the manifest does not tell of as it is now."""
    known = {shard.name: shard for shard in manifest.shards}
    remedy = f"run `gen-dist data index {store.url}`: it reads what is new and keeps the rest"
    for shard in shards:
        then = known.get(shard.name)
        if then is None:
            yield DataError("not in the index", shard=f"{store.url}/{shard.name}", remedy=remedy)
        elif then.size_bytes != shard.size_bytes or _changed(then.version, shard.version):
            yield DataError("changed after it was indexed", shard=f"{store.url}/{shard.name}", remedy=remedy)


def index_from(store: Store, shards: Sequence[ObjectInfo], manifest: Manifest) -> Index:
    """The index of shards that are all in the manifest."""
    place = {shard.name: number for number, shard in enumerate(manifest.shards)}
    chosen = [place[shard.name] for shard in shards]
    # pinned to what is there now: a copy of a folder has other times, and a bucket other tags; what is read of such
    # shards is held against the checksums of the index, for a change may keep the size
    facts = [replace(manifest.shards[n], version=shard.version) for n, shard in zip(chosen, shards, strict=True)]
    moved = [manifest.shards[n].version != shard.version for n, shard in zip(chosen, shards, strict=True)]
    return Index(facts, manifest.blocks.of_shards(chosen), store=store, unproved=moved)


def _changed(then: str, now: str) -> bool:
    """Whether two versions of a shard of one size tell of a change. Times do not: every copy has its own.

    Where only times differ, the checksums decide as the shard is read: see `Index.unproved`.
    """
    return then.startswith('"') and now.startswith('"') and then != now


def _not_empty(index: Index) -> Index:
    if not len(index):
        left = f" ({index.num_left_out} are left out)" if index.num_left_out else ""
        remedy = "write members as key.extension, for example 000001.png and 000001.txt"
        raise DataError(f"{index.store_of(0).url}: the shards hold no samples{left}", remedy=remedy)
    return index
