"""Which samples go into which shard: fixed before the first is written, and kept beside the shards.

The shards of a pack that was stopped are told from those still to be made by the plan and by a small object for each
finished shard, both below `pack/` of the destination.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from gen_dist.data.errors import DataError
from gen_dist.data.pack.listing import Entry, LeftOut, Listing
from gen_dist.data.pack.options import HELDOUT, PackOptions
from gen_dist.store import Store

PLAN = "pack/plan.json"
FORM = "gen-dist-pack-1"
NUM_READS_AT_ONCE = 16


@dataclass(frozen=True)
class ShardPlan:
    """Shard `name` holds the entries [first, end) of the ordered list."""

    name: str
    first: int
    end: int


@dataclass(frozen=True)
class ShardState:
    """What became of a shard. One without samples has no tar."""

    name: str
    size_bytes: int
    num_samples: int
    left_out: list[LeftOut] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        facts = {**asdict(self), "left_out": [left.facts() for left in self.left_out]}
        return json.dumps(facts, ensure_ascii=False).encode("utf-8", "replace")

    @classmethod
    def from_bytes(cls, data: bytes) -> ShardState:
        """Raises: ValueError, TypeError, KeyError for what `to_bytes` did not write."""
        facts = json.loads(data)
        return cls(**{**facts, "left_out": [LeftOut(**left) for left in facts["left_out"]]})


def state_name(shard: str) -> str:
    """Of the object that says that a shard is finished."""
    return f"pack/{shard.removesuffix('.tar')}.json"


def is_held_out(key: str, share: float) -> bool:
    """By the key alone, so that a sample never moves between the parts when others come or go."""
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big") < share * 2**64


def ordered(entries: Sequence[Entry], options: PackOptions) -> tuple[list[Entry], int]:
    """The entries to train on and behind them the held-out ones, and how many the former are."""
    held = [is_held_out(entry.key, options.heldout) for entry in entries] if options.heldout else [False] * len(entries)
    train = [entry for entry, out in zip(entries, held, strict=True) if not out]
    return train + [entry for entry, out in zip(entries, held, strict=True) if out], len(train)


def cut(sizes_bytes: Sequence[int], shard_bytes: int, *, prefix: str, first: int = 0) -> list[ShardPlan]:
    """Shards of nearly equal size, none much larger than wanted; as many as that takes."""
    if not sizes_bytes:
        return []
    ends = np.array(list(accumulate(sizes_bytes)), dtype=np.float64)
    num_shards = min(len(sizes_bytes), math.ceil(ends[-1] / shard_bytes))
    middles = ends - np.array(sizes_bytes) / 2
    shard_of = np.minimum(num_shards - 1, (middles * num_shards / max(1.0, ends[-1])).astype(np.int64))
    bounds = np.searchsorted(shard_of, np.arange(num_shards + 1))
    pairs = [(int(a), int(b)) for a, b in pairwise(bounds) if b > a]
    return [ShardPlan(f"{prefix}-{n:06d}.tar", first + a, first + b) for n, (a, b) in enumerate(pairs)]


def plan_shards(entries: Sequence[Entry], num_train: int, options: PackOptions, mean_bytes: int) -> list[ShardPlan]:
    """The shards; `mean_bytes` stands for each size where the source's own says nothing of the shard's, else 0."""
    sizes_bytes = [mean_bytes or entry.size_bytes for entry in entries]
    train = cut(sizes_bytes[:num_train], options.shard_bytes, prefix=options.prefix)
    return train + cut(sizes_bytes[num_train:], options.shard_bytes, prefix=HELDOUT, first=num_train)


def identity(listing: Listing, entries: Sequence[Entry], options: PackOptions) -> dict[str, Any]:
    """What has to be the same for a pack to go on: the options, and a digest of the source's samples."""
    sha = hashlib.sha256(listing.about.encode("utf-8", "surrogateescape"))
    for entry in entries:
        sha.update(f"{entry.key}\0{entry.size_bytes}\0{entry.place!r}\n".encode("utf-8", "surrogateescape"))
    return {"form": FORM, "samples": len(entries), "digest": sha.hexdigest(), "options": asdict(options)}


def stored_plan(store: Store, about: dict[str, Any]) -> list[ShardPlan] | None:
    """The plan of an earlier start, None where there was none.

    Raises: DataError where it was of another source or other options, or where shards lie there that no pack wrote.
    """
    where = f"{store.url}/{PLAN}"
    if not store.list(PLAN):
        options = about["options"]
        found = [i.name for prefix in (options["prefix"], HELDOUT) for i in store.list(f"{prefix}-[0-9]*.tar")]
        if found:
            remedy = "choose an empty destination, or another --prefix"
            raise DataError(f"{store.url} already holds {found[0]} of another making", remedy=remedy)
        return None
    try:
        stored = json.loads(bytes(store.read(PLAN)))
        shards = [ShardPlan(*row) for row in stored.pop("shards")]
        changes = _changes(stored, about)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError("the plan of the pack is damaged", shard=where, remedy=f"delete {store.url}/pack") from error
    if changes:
        remedy = "choose an empty destination, or go back to what was packed"
        raise DataError(f"the destination holds a pack of other samples: {changes}", shard=where, remedy=remedy)
    return shards


def store_plan(store: Store, about: dict[str, Any], shards: Sequence[ShardPlan]) -> None:
    """Raises: StoreError where another pack wrote one in the meantime."""
    document = {**about, "shards": [[shard.name, shard.first, shard.end] for shard in shards]}
    store.write(PLAN, json.dumps(document, indent=1).encode(), if_version="")


def _changes(then: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs, for the person; "" if nothing does."""
    names = [name for name in now["options"] if now["options"][name] != then["options"].get(name)]
    found = [f"{name} was {then['options'].get(name)}, is {now['options'][name]}" for name in names]
    if then["samples"] != now["samples"]:
        found.append(f"the source had {then['samples']} samples, has {now['samples']}")
    elif then["digest"] != now["digest"] or then["form"] != now["form"]:
        found.append("files, captions or columns of the source changed")
    return ", ".join(found)


def finished(store: Store, shards: Sequence[ShardPlan]) -> dict[str, ShardState]:
    """The shards that are there in full, by name."""
    sizes_bytes = {info.name: info.size_bytes for info in store.list("*.tar")}
    noted = {info.name for info in store.list("pack/*.json")}
    names = [shard.name for shard in shards if state_name(shard.name) in noted]
    with ThreadPoolExecutor(NUM_READS_AT_ONCE) as pool:
        states = [state for state in pool.map(lambda name: _state(store, name), names) if state is not None]
    return {s.name: s for s in states if not s.num_samples or sizes_bytes.get(s.name) == s.size_bytes}


def _state(store: Store, shard: str) -> ShardState | None:
    try:
        state = ShardState.from_bytes(bytes(store.read(state_name(shard))))
    except (ValueError, TypeError, KeyError):
        return None  # then the shard is made again
    return state if state.name == shard else None
