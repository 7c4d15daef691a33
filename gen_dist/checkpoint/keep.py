"""Retention: which checkpoints to remove, decided in a pure function, and how to remove one so that nobody is hurt.

Removing goes tombstone, manifest, data, `done` files, tombstone: after each step, killed or not, the checkpoint is
whole or is none, and the next retention goes on where this one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from gen_dist.checkpoint.attempts import attempts, began, highest_attempt
from gen_dist.checkpoint.history import committed, linear_history
from gen_dist.checkpoint.names import MANIFEST, TOMBSTONE, Name
from gen_dist.checkpoint.pins import pinned
from gen_dist.checkpoint.scores import scores_of
from gen_dist.store import MissingError, ObjectInfo, Store

ORPHAN_AGE_S = 3600.0
OBJECTS = ("images-*/*", "images-*/done/*")  # all of all checkpoints


@dataclass(frozen=True, kw_only=True)
class Keep:
    """What retention leaves. Pinned checkpoints and the newest one stay in any case."""

    last: int = 2
    """Newest checkpoints."""
    every_images: int = 0
    """Also the first one at or after each multiple of so many images. 0: none."""
    best: int = 0
    """Also so many of the best by `metric`."""
    metric: str = ""
    """A name among the `scores` of the checkpoints' facts."""
    highest_is_best: bool = True
    orphan_age_s: float = ORPHAN_AGE_S
    """Seconds after which what an ended worker group never committed is removed."""


@dataclass(frozen=True)
class Removal:
    """A checkpoint, or what there is of one, that was removed; or would be."""

    name: Name
    size_bytes: int
    why: str


def superfluous(
    line: Sequence[Name], dead: Collection[Name], keep: Keep, *, pins: Collection[str], scores: Mapping[Name, float]
) -> dict[Name, str]:
    """Committed checkpoints to remove, each with the reason.

    `line`: the history to go on from, newest first; `dead`: committed ones off that line. Nothing is removed that is
    pinned or that lies further than the newest of the line: a run that went back may want it after all.
    """
    if not line:
        return {}
    wanted = set(line[: max(1, keep.last)])
    if keep.every_images:
        oldest_first, size = [Name(0, 0), *reversed(line)], keep.every_images
        wanted |= {name for before, name in pairwise(oldest_first) if name.images // size > before.images // size}
    if keep.best and keep.metric:
        sign = -1.0 if keep.highest_is_best else 1.0
        ranked = sorted((name for name in line if name in scores), key=lambda name: (sign * scores[name], -name.images))
        wanted |= set(ranked[: keep.best])
    rest = {name: "not among those to keep" for name in line if name not in wanted}
    rest |= {name: "a later attempt went back behind it" for name in dead if name.images <= line[0].images}
    return {name: why for name, why in rest.items() if str(name) not in pins}


def prune(
    store: Store,
    keep: Keep,
    *,
    attempt: int | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
    at: Callable[[str], object] = lambda stage: None,
) -> list[Removal]:
    """Removes what `keep` does not hold, what earlier attempts never committed, and what a killed prune or writer left.

    `attempt`: the worker group that asks, by default the newest one. Ends early where a newer group begins, because
    that may go on from any checkpoint. With `dry_run` only tells. Raises: StoreError, CheckpointError.
    """
    objects = objects_by_checkpoint(store)
    if attempt is None:
        attempt = max([highest_attempt(store), *(name.attempt for name in objects)])
    plan = _plan(store, keep, attempt=attempt, objects=objects, now=now or datetime.now(UTC))
    removed = []
    for name in sorted(plan):
        size_bytes = sum(info.size_bytes for info in objects[name])
        if dry_run or _remove(store, name, objects[name], attempt=attempt, at=at):
            removed.append(Removal(name, size_bytes, plan[name]))
    if not dry_run:
        for pattern in OBJECTS:
            store.sweep(pattern)
    return removed


def _plan(
    store: Store, keep: Keep, *, attempt: int, objects: Mapping[Name, Sequence[ObjectInfo]], now: datetime
) -> dict[Name, str]:
    """All that may go, of this attempt and earlier ones, with the reason."""
    line, whole = linear_history(store), committed(store)
    scores = scores_of(store, line, keep.metric) if keep.best and keep.metric else {}
    plan = superfluous(line, set(whole) - set(line), keep, pins=pinned(store), scores=scores)
    numbers = attempts(store)
    for name, infos in objects.items():
        documents = {info.name.rpartition("/")[2] for info in infos}
        if TOMBSTONE in documents:
            plan[name] = "its removal was interrupted"
        elif MANIFEST not in documents and _is_orphan(store, name, line, attempt, numbers, keep, now):
            plan[name] = "never committed"
    return {name: why for name, why in plan.items() if name.attempt <= attempt and name in objects}


def _is_orphan(
    store: Store, name: Name, line: Sequence[Name], attempt: int, numbers: Sequence[int], keep: Keep, now: datetime
) -> bool:
    """Whether nobody will commit it any more.

    Of our own attempt: a save that was missed, once a later one is committed. Of an earlier one: when its successor
    began long ago; that it is fenced is certain, that it has ended is not.
    """
    if name.attempt == attempt:
        return any(newer.attempt == attempt and newer.images > name.images for newer in line)
    successor = min((number for number in numbers if number > name.attempt), default=None)
    return successor is not None and now - began(store, successor) >= timedelta(seconds=keep.orphan_age_s)


def _remove(
    store: Store, name: Name, infos: Sequence[ObjectInfo], *, attempt: int, at: Callable[[str], object]
) -> bool:
    """Removes one checkpoint; False, and it stays, where it is pinned or where a newer group has begun meanwhile.

    The tombstone comes before these two questions, and pinning and going on from a checkpoint look for one after
    saying so themselves: whoever comes second sees the other.
    """
    at("tombstone")
    store.write(name.tombstone, json.dumps({"by_attempt": attempt}).encode())
    if str(name) in pinned(store) or highest_attempt(store) > attempt:
        if name.manifest in {info.name for info in infos}:
            store.delete(name.tombstone)
        return False
    for info in sorted(infos, key=lambda info: _turn(name, info)):
        if info.name != name.tombstone:
            at(f"delete {info.name}")
            store.delete(info.name)
    at("bury")
    store.delete(name.tombstone)
    return True


def clear(store: Store, *, attempt: int, images: int, but: Collection[Name] = ()) -> None:
    """Removes what this attempt's saves, up to so many images, have left and its leader will not commit.

    Only for that leader, between its saves: nobody else could still write their manifests. `but`: those whose manifest
    was sent and not answered for, which may yet arrive. Raises: StoreError.
    """
    for name, infos in objects_by_checkpoint(store).items():
        documents = {info.name.rpartition("/")[2] for info in infos}
        given_up = name.attempt == attempt and name.images <= images and name not in but
        if given_up and not documents & {MANIFEST, TOMBSTONE}:
            for info in sorted(infos, key=lambda info: _turn(name, info)):
                store.delete(info.name)


def _turn(name: Name, info: ObjectInfo) -> tuple[int, str]:
    """Manifest, data, `done` files."""
    if info.name == name.manifest:
        return 0, info.name
    return (2 if "/done/" in info.name else 1), info.name


def objects_by_checkpoint(store: Store) -> dict[Name, list[ObjectInfo]]:
    """All objects of all checkpoints, whole or not."""
    found: dict[Name, list[ObjectInfo]] = {}
    try:
        infos = [info for pattern in OBJECTS for info in store.list(pattern)]
    except MissingError:
        return {}
    for info in infos:
        name = Name.parse(info.name.partition("/")[0])
        if name is not None:
            found.setdefault(name, []).append(info)
    return found
