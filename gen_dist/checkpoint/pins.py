"""Pins: checkpoints that retention must leave, each with the name of who wants it, such as a registered model."""

from __future__ import annotations

import json
from urllib.parse import quote

from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.manifest import parse_json
from gen_dist.checkpoint.names import PINS, Name
from gen_dist.store import MissingError, Store


def pin(store: Store, checkpoint: str, *, by: str) -> None:
    """Lets retention leave a checkpoint for as long as `unpin` is not called with the same `by`.

    Raises: CheckpointError where there is no such checkpoint, or where it is being removed at this moment.
    """
    name = Name.parse(checkpoint)
    if name is None:
        raise CheckpointError(f"{checkpoint!r} is no name of a checkpoint; give one that `candidates` gave")
    store.write(_object(by), json.dumps({"checkpoint": checkpoint, "by": by}).encode())
    documents = {info.name for info in store.list(f"{name}/*")}
    if name.manifest not in documents or name.tombstone in documents:
        unpin(store, by=by)
        raise CheckpointError(f"{store.url}/{checkpoint}: not there, or being removed; pin another checkpoint")


def unpin(store: Store, *, by: str) -> None:
    """Takes a pin away; one that is not there is fine."""
    store.delete(_object(by))


def pinned(store: Store) -> set[str]:
    """Names of all checkpoints with a pin. Raises: CheckpointError for a pin that cannot be read: it may name any."""
    found = set()
    try:
        infos = store.list(PINS)
    except MissingError:
        return set()
    for info in infos:
        try:
            document = parse_json(store.read(info.name), where=f"{store.url}/{info.name}")
        except MissingError:
            continue  # taken away since it was listed
        checkpoint = document.get("checkpoint")
        if not isinstance(checkpoint, str):
            raise CheckpointError(f"{store.url}/{info.name}: names no checkpoint; remove it, or write it with `pin`")
        found.add(checkpoint)
    return found


def _object(by: str) -> str:
    return f"pins/{quote(by, safe='')}.json"
