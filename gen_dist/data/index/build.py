"""Indexing a prefix: each shard read once, its table written beside it, and one manifest of them all at the end.

A shard whose table is there and tells of the shard as it is now is not read again, so the same command goes on where a
killed one ended.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gen_dist.data.errors import DataError
from gen_dist.data.index.blocks import Blocks, cut, join
from gen_dist.data.index.energon import idx_name, scan_with_idx
from gen_dist.data.index.find import list_shards
from gen_dist.data.index.manifest import NAME, Manifest, Shard, shard_of
from gen_dist.data.index.scan import scan_shard
from gen_dist.data.index.table import SUFFIX, LeftOut, ShardTable
from gen_dist.store import ConflictError, ObjectInfo, Store, StoreError

SMALL_BYTES = 64 << 20  # read here sooner than Ray has started
NUM_EXAMPLES = 20  # of left-out samples that a shard tells of
NUM_TRIES, PAUSE_S = 10, 0.2  # to write a manifest that others write at the same time


@dataclass(frozen=True)
class Indexed:
    """A shard whose table is written."""

    shard: Shard
    blocks: Blocks
    """Its own, of shard number 0."""
    left_out: list[LeftOut]
    """The first `NUM_EXAMPLES` of them."""
    is_new: bool
    """False where the table was there already."""


@dataclass(frozen=True)
class Broken:
    """A shard that cannot be read."""

    shard: ObjectInfo
    line: str
    """What is wrong, where, and what to do."""
    passing: bool = False
    """The store failed, and nothing is known of the shard: it must not go into a manifest as one without samples."""


def tars(store: Store, patterns: Sequence[str]) -> list[ObjectInfo]:
    """The shards that match any of some globs, by name. Raises: DataError where one matches none; StoreError."""
    found = {shard.name: shard for pattern in patterns for shard in list_shards(store, pattern)}
    return [found[name] for name in sorted(found)]


def index_shard(store: Store, shard: ObjectInfo, *, look: bool, has_table: bool, has_idx: bool) -> Indexed | Broken:
    """Reads one shard and writes its table, unless it has one that is of the shard as it is now.

    `look`: as `scan_shard`. `has_idx`: Energon's index lies beside the shard.
    """
    where = f"{store.url}/{shard.name}"
    try:
        table = _kept(store, shard, look=look) if has_table else None
        is_new = table is None
        if table is None:
            if look:
                with store.stream(shard.name, version=shard.version) as file:
                    table = scan_shard(file, where=where, look=True, size_bytes=shard.size_bytes)
            elif has_idx:
                table = scan_with_idx(store, shard)
            else:
                with store.open(shard.name, version=shard.version) as file:
                    table = scan_shard(file, where=where, size_bytes=shard.size_bytes)
            store.write(shard.name + SUFFIX, table.to_bytes(_facts(shard, look=look)))
    except (DataError, StoreError) as error:
        return Broken(shard, str(error), passing=isinstance(error, StoreError))
    except OSError as error:  # of a disk, in the middle of a file
        what = f"unreadable ({error.strerror or error})"
        return Broken(shard, f"{where}: {what}; look after the disk, and run this again", passing=True)
    facts = shard_of(shard.name, shard.size_bytes, shard.version, table)
    return Indexed(facts, cut([table]), table.left_out[:NUM_EXAMPLES], is_new)


def index_shards(
    store: Store, shards: Sequence[ObjectInfo], *, look: bool, again: bool, workers: int, address: str = ""
) -> Iterator[Indexed | Broken]:
    """One answer a shard, as they come; `workers` at a time as Ray tasks, or here where that is not worth it.

    `address`: a standing Ray cluster; empty for this machine.
    """
    workers = min(workers or os.cpu_count() or 1, len(shards))
    there = _beside(store, [shard.name for shard in shards])
    tasks = [
        (
            shard,
            {
                "look": look,
                "has_table": not again and shard.name + SUFFIX in there,
                "has_idx": idx_name(shard.name) in there,
            },
        )
        for shard in shards
    ]
    if workers <= 1 or (not address and sum(shard.size_bytes for shard in shards) <= SMALL_BYTES):
        for shard, options in tasks:
            yield index_shard(store, shard, **options)
    else:
        yield from _with_ray(store, tasks, workers, address)


def write_manifest(store: Store, done: Sequence[Indexed], broken: Sequence[Broken] = ()) -> Manifest:
    """The manifest of these shards, and of those of the one before it that are as they were; written if it changed.

    Shards that are `broken` stand in it without samples, so that a run passes over them. Where somebody else wrote one
    at the same time, both are put together.

    Raises: StoreError, also where others write it again and again.
    """
    for left in reversed(range(NUM_TRIES)):
        before = store.list(NAME)
        old = bytes(store.read(NAME)) if before else b""
        manifest = _merged(store, old, done, broken)
        data = manifest.to_bytes()
        if data == old:
            return manifest
        try:
            store.write(NAME, data, if_version=before[0].version if before else "")
            return manifest
        except ConflictError:
            if not left:
                raise
        time.sleep(random.uniform(0, PAUSE_S))  # several that lost at once
    raise AssertionError("the last try raises")


def _merged(store: Store, old: bytes, done: Sequence[Indexed], broken: Sequence[Broken]) -> Manifest:
    known = _still_there(store, old, {entry.shard.name for entry in done} | {entry.shard.name for entry in broken})
    parts = known + [(entry.shard, entry.blocks) for entry in done]
    parts += [(_without_samples(entry.shard), cut([])) for entry in broken]
    parts.sort(key=lambda part: part[0].name)
    return Manifest([shard for shard, _ in parts], join([blocks for _, blocks in parts]))


def _kept(store: Store, shard: ObjectInfo, *, look: bool) -> ShardTable | None:
    """The table that is there, if it is of this shard as it is now and tells enough."""
    name = shard.name + SUFFIX
    try:
        table, facts = ShardTable.with_shard(bytes(store.read(name)), where=f"{store.url}/{name}")
    except DataError:
        return None  # damaged, or of another version of this program
    wanted = _facts(shard, look=look)
    is_same = all(facts.get(word) == wanted[word] for word in ("name", "size_bytes", "version"))
    return table if is_same and (facts.get("looked") == 1 or not look) else None


def _facts(shard: ObjectInfo, *, look: bool) -> dict[str, str | int]:
    return {"name": shard.name, "size_bytes": shard.size_bytes, "version": shard.version, "looked": int(look)}


def _still_there(store: Store, old: bytes, names: set[str]) -> list[tuple[Shard, Blocks]]:
    """What the old manifest holds besides `names` and is unchanged in the store."""
    try:
        manifest = Manifest.from_bytes(old, where=f"{store.url}/{NAME}") if old else None
    except DataError:
        return []  # it is written anew
    if manifest is None:
        return []
    others = [number for number, shard in enumerate(manifest.shards) if shard.name not in names]
    listed = _beside(store, [manifest.shards[number].name for number in others])
    kept = []
    for number in others:
        shard = manifest.shards[number]
        now = listed.get(shard.name)
        if now is not None and (now.size_bytes, now.version) == (shard.size_bytes, shard.version):
            kept.append((shard, manifest.blocks.of_shards([number])))
    return kept


def _without_samples(shard: ObjectInfo) -> Shard:
    return Shard(shard.name, shard.size_bytes, shard.version, 0, {}, "")


def _beside(store: Store, names: Sequence[str]) -> dict[str, ObjectInfo]:
    """By name, all that lies in the folders of some objects."""
    folders = sorted({name.rpartition("/")[0] for name in names})
    patterns = [f"{_literal(folder)}/*" if folder else "*" for folder in folders]
    return {info.name: info for pattern in patterns for info in store.list(pattern)}


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _with_ray(
    store: Store, tasks: Sequence[tuple[ObjectInfo, dict[str, bool]]], workers: int, address: str
) -> Iterator[Indexed | Broken]:
    """As Ray tasks, twice as many submitted as run at a time."""
    import ray

    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address:
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
                remedy = f"check that `ray status --address {address}` answers here, or leave --address away"
                what = " ".join(str(error).split())[-200:]
                raise DataError(f"--address {address}: no Ray cluster ({what})", remedy=remedy) from error
        else:
            # "local" says that a cluster which happens to stand on this machine is not meant
            ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=200 * 2**20, **quiet)
    try:
        task, store_ref = ray.remote(index_shard), ray.put(store)
        waiting = list(reversed(tasks))
        running: dict[Any, ObjectInfo] = {}
        while waiting or running:
            while waiting and len(running) < 2 * workers:
                shard, options = waiting.pop()
                running[task.remote(store_ref, shard, **options)] = shard
            for ref in ray.wait(list(running), num_returns=1)[0]:
                shard = running.pop(ref)
                try:
                    yield ray.get(ref)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                    what = f"the worker that read it died ({' '.join(str(error).split())[:200]})"
                    # memory comes back; what ended three workers, as often as Ray tries, is taken to be the shard
                    passing = isinstance(error, ray.exceptions.OutOfMemoryError)
                    yield Broken(shard, f"{shard.name}: {what}; try fewer --workers", passing=passing)
    finally:
        if ours:
            ray.shutdown()
