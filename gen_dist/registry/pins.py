"""Pins: notes beside the checkpoints of a run that say which of them a registered model needs.

Retention leaves a checkpoint alone while an object `pins/*.json` names it.
"""

from __future__ import annotations

import json
from urllib.parse import quote

from gen_dist.store import Store

FOLDER = "pins"


def pin(store: Store, checkpoint_name: str, *, by: str) -> str:
    """Hold a checkpoint for `by`, such as `NAME/3`. Returns the name of the pin. Raises: StoreError."""
    name = _name(by)
    facts = {"checkpoint": checkpoint_name, "by": by}
    store.write(name, (json.dumps(facts) + "\n").encode("utf-8"))
    return name


def unpin(store: Store, *, by: str) -> None:
    """Let go what `by` held; fine where it held nothing. Raises: StoreError."""
    store.delete(_name(by))


def _name(by: str) -> str:
    model, _, version = by.rpartition("/")
    return f"{FOLDER}/{quote(model, safe='')}-{version}.json"
