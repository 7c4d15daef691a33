"""Scores of checkpoints, as their manifests keep them: what retention ranks them by."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.manifest import parse_json
from gen_dist.checkpoint.names import Name
from gen_dist.store import Store


def scores_of(store: Store, names: Iterable[Name], metric: str) -> dict[Name, float]:
    """The finite scores under `metric`; a checkpoint without one, or with a damaged manifest, is left out."""
    found = {}
    for name in names:
        try:
            facts = parse_json(store.read(name.manifest), where=str(name)).get("facts")
        except CheckpointError:
            continue
        scores = facts.get("scores") if isinstance(facts, dict) else None
        score = scores.get(metric) if isinstance(scores, dict) else None
        if isinstance(score, int | float) and math.isfinite(score):
            found[name] = float(score)
    return found
