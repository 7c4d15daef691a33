"""keep_scores: what was measured of a registered version later on, kept with its checkpoint for the gates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from mlflow.entities import Metric

from gen_dist.registry.errors import RegistryError
from gen_dist.registry.evaluated import MOST_DIGEST_LETTERS
from gen_dist.registry.lineage import MODEL_TAG
from gen_dist.registry.registered import Registered


def keep_scores(
    registered: Registered, version: Any, scores: Mapping[str, float], *, measured_on: str, data_digest: str
) -> None:
    """Points of its run at the images of its checkpoint. `measured_on`: which samples of the data, and which seed.

    Raises: RegistryError where the version is not one that gen-dist published.
    """
    model_id, images = version.tags.get(MODEL_TAG, ""), version.tags.get("images", "")
    if not model_id or not images.isdigit():
        raise RegistryError(
            f"{registered.name}/{version.version}: not published by gen-dist, so its scores have no place; publish its"
            " checkpoint"
        )
    now_ms = time.time_ns() // 1_000_000
    points = [
        Metric(
            name,
            value,
            now_ms,
            int(images),
            model_id=model_id,
            dataset_name=measured_on,
            dataset_digest=data_digest[:MOST_DIGEST_LETTERS],
        )
        for name, value in scores.items()
    ]
    registered.client.log_batch(version.run_id, metrics=points)
