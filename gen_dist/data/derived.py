"""Derived shards: arrays that were computed once of every sample (latents), stored beside its source row by row.

They have the names of the source's shards and in each of them the same samples in the same order, so that sample i is
found by its place and never looked up by its key. `derived.json` beside them says of which source they are and what
they were computed with; a run on another source, or with another autoencoder, is refused before it starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from gen_dist.data.errors import DataError
from gen_dist.data.index import Index, find_index
from gen_dist.store import Store

NAME = "derived.json"
FORMAT = "gen-dist derived 1"
SHOWN_LETTERS = 12  # of a digest in an error

Facts = Mapping[str, Mapping[str, str]]
"""Member, such as latent.npy -> what it was computed with, by name. Arrays that differ in one of them do not mix."""


@dataclass(frozen=True)
class Derivation:
    """What `derived.json` says."""

    made_with: Facts
    """Of the computed members."""
    copied: str
    """Endings of the members that were taken over as they were, separated by blanks."""
    shards: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By name, of each finished shard: digest of the source's table, digest of its own table."""

    @property
    def recipe_hash(self) -> str:
        """sha256 of all that decides the bytes of a shard, but for its source."""
        facts = {"format": FORMAT, "made_with": self.made_with, "copied": self.copied}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        facts = {
            "format": FORMAT,
            "recipe_hash": self.recipe_hash,
            "made_with": self.made_with,
            "copied": self.copied,
            "shards": {name: self.shards[name] for name in sorted(self.shards)},
        }
        return json.dumps(facts, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Derivation:
        """Raises: DataError for anything that no `to_bytes` wrote."""
        remedy = "run `gen-dist data derive` into another folder"
        try:
            facts = json.loads(data)
            if facts["format"] != FORMAT:
                raise DataError(
                    f"written as {facts['format']!r}, and this reads {FORMAT!r}", shard=where, remedy=remedy
                )
            made_with = {
                str(member): {str(name): str(value) for name, value in own.items()}
                for member, own in facts["made_with"].items()
            }
            shards = {str(name): (str(source), str(own)) for name, (source, own) in facts["shards"].items()}
            found = cls(made_with, str(facts["copied"]), shards)
            if facts["recipe_hash"] != found.recipe_hash:
                raise ValueError("its recipe_hash is not that of its facts")
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"no description of derived shards ({error})", shard=where, remedy=remedy) from error
        return found


def read_derivation(store: Store) -> Derivation | None:
    """None where there is no `derived.json`. Raises: DataError, StoreError."""
    if not store.list(NAME):
        return None
    return Derivation.from_bytes(bytes(store.read(NAME)), where=f"{store.url}/{NAME}")


def differing(stored: Facts, wanted: Facts) -> str:
    """The first thing in which the stored arrays are not what is wanted, or nothing."""
    for member, own in wanted.items():
        if member not in stored:
            return f"no member .{member} (it holds {', '.join(f'.{name}' for name in stored) or 'none'})"
        for name in sorted({*own, *stored[member]}):
            there, here = stored[member].get(name, "missing"), own.get(name, "missing")
            if there != here:
                return f".{member}: {name} is {_short(there)}, and the run wants {_short(here)}"
    return ""


def joined_to(index: Index, store: Store, pattern: str, *, made_with: Facts) -> Index:
    """`index`, whose arrays then come from the derived shards in `store`. `pattern`: as `index` was found by.

    Raises: DataError where they are not of this source, row by row, or not computed with `made_with`; StoreError.
    """
    source_url = index.store_of(0).url if index.shards else "SOURCE"
    command = f"`gen-dist data derive MODEL {source_url} {store.url}`"
    known = read_derivation(store)
    if known is None:
        raise DataError(f"{store.url}: no {NAME}: no derived shards", remedy=f"make them with {command}")
    fault = differing(known.made_with, made_with)
    if fault:
        remedy = "name the model that these are of in the job, or run `gen-dist data derive` into another folder"
        raise DataError(fault, shard=store.url, remedy=remedy)
    for shard in index.shards:
        if shard.name not in known.shards:
            raise DataError("not derived yet", shard=f"{store.url}/{shard.name}", remedy=f"run {command}: it goes on")
        if known.shards[shard.name][0] != shard.digest:
            raise DataError(
                f"derived from other samples than {source_url}/{shard.name} holds",
                shard=f"{store.url}/{shard.name}",
                remedy=f"name the source it is of in data.url, or run {command}: it makes what changed anew",
            )
    derived = find_index(store, pattern)
    own = {shard.name: shard for shard in derived.shards}
    for shard in index.shards:
        found = own.get(shard.name)
        if found is None or found.digest != known.shards[shard.name][1] or found.num_samples != shard.num_samples:
            what = "missing" if found is None else "not the shard that was derived"
            remedy = f"delete it and its .gdx, and run {command}"
            raise DataError(what, shard=f"{store.url}/{shard.name}", remedy=remedy)
    if len(own) != len(index.shards):
        extra = min(set(own) - {shard.name for shard in index.shards})
        raise DataError(f"no such shard in {source_url}", shard=f"{store.url}/{extra}", remedy="delete it")
    return index.with_derived(derived)


def _short(value: str) -> str:
    return f"{value[:SHOWN_LETTERS]}..." if len(value) > 2 * SHOWN_LETTERS else value
