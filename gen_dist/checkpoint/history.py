"""Which checkpoints a run can go on from, newest first: the committed ones of its one line of history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gen_dist.checkpoint.attempts import attempts, bases
from gen_dist.checkpoint.names import MANIFEST, TOMBSTONE, Name
from gen_dist.store import MissingError, Store


def candidates(store: Store) -> list[str]:
    """Names of the checkpoints to go on from, newest first; empty in a fresh run. Nothing of them is read yet.

    A checkpoint without a manifest was never committed, and one with a tombstone is being removed: neither is given.
    """
    return [str(name) for name in linear_history(store)]


def linear_history(store: Store) -> list[Name]:
    """As `candidates`."""
    found = committed(store)
    if not found:
        return []
    oldest = min(name.attempt for name in found)
    return in_line(found, bases(store, (number for number in attempts(store) if number > oldest)))


def committed(store: Store) -> list[Name]:
    """All checkpoints that have a manifest and no tombstone, in no order; also those off the line of history."""
    with_manifest = _named(store, MANIFEST)
    return sorted(with_manifest - _named(store, TOMBSTONE)) if with_manifest else []


def in_line(found: Iterable[Name], bases: Mapping[int, int]) -> list[Name]:
    """Those of `found` that no later attempt has gone back behind, newest first.

    `bases`: attempt -> images that it went on from. A group that was thought dead may commit after its successor has
    gone on from an older checkpoint; and a run that was told to go back a checkpoint has a dead branch.
    """
    line, least = [], None
    later = sorted(bases.items(), reverse=True)
    at = 0
    for name in sorted(found, key=lambda name: (name.attempt, name.images), reverse=True):
        while at < len(later) and later[at][0] > name.attempt:
            least = later[at][1] if least is None else min(least, later[at][1])
            at += 1
        if least is None or name.images <= least:
            line.append(name)
    return sorted(line, reverse=True)


def _named(store: Store, document: str) -> set[Name]:
    """Checkpoints that hold such an object."""
    try:
        infos = store.list(f"images-*/{document}")
    except MissingError:
        return set()
    names = (Name.parse(info.name.partition("/")[0]) for info in infos)
    return {name for name in names if name is not None}
