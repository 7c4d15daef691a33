"""All that a run's store holds of checkpoints, whole or not, and what becomes of each: for a person to look at."""

from __future__ import annotations

from dataclasses import dataclass

from gen_dist.checkpoint.history import linear_history
from gen_dist.checkpoint.keep import objects_by_checkpoint
from gen_dist.checkpoint.names import MANIFEST, TOMBSTONE, Name
from gen_dist.checkpoint.pins import pinned
from gen_dist.store import Store

NEWEST, OLDER = "newest", "older"
LEFT_BEHIND, UNCOMMITTED, REMOVED = "left behind", "not committed", "being removed"


@dataclass(frozen=True)
class Entry:
    """One checkpoint, or what there is of one."""

    name: Name
    state: str
    """`newest`: what a run goes on from; `older`: if that is damaged; `left behind`: a later attempt went back behind
    it; `not committed`: under way, or its writer died; `being removed`."""
    size_bytes: int
    num_objects: int
    is_pinned: bool


def inventory(store: Store) -> list[Entry]:
    """Newest first. Raises: StoreError, CheckpointError for an attempt or a pin that cannot be read."""
    line, pins = linear_history(store), pinned(store)
    entries = []
    for name, infos in objects_by_checkpoint(store).items():
        documents = {info.name.rpartition("/")[2] for info in infos}
        if TOMBSTONE in documents:
            state = REMOVED
        elif MANIFEST not in documents:
            state = UNCOMMITTED
        elif name in line:
            state = NEWEST if name == line[0] else OLDER
        else:
            state = LEFT_BEHIND
        size_bytes = sum(info.size_bytes for info in infos)
        entries.append(Entry(name, state, size_bytes, len(infos), str(name) in pins))
    return sorted(entries, key=lambda entry: entry.name, reverse=True)
