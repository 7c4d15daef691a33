"""Does an exported model hold what was trained: read back, compared bit for bit, and drawn from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gen_dist.job.errors import GenDistError
from gen_dist.registry import exports, weights
from gen_dist.registry.find import find_model
from gen_dist.registry.lineage import (
    CHECKPOINT_TAG,
    CHECKPOINTS_TAG,
    JOB_TAG,
    MANIFEST_TAG,
    WEIGHTS_TAG,
    manifest_sha256,
)
from gen_dist.registry.registered import Registered
from gen_dist.sample.model import Model

SEED = 0


def reload_result(registered: Registered, version: Any) -> tuple[bool, str]:
    """Whether the export of a version, read back, is what its checkpoint draws with; and what was seen.

    Where the checkpoint is not on this machine, the weights are compared with the digest taken of it when the version
    was published.
    """
    prefix = exports.prefix_of(registered.home, version.source)
    if prefix and (fault := exports.fault_of(registered.store, prefix)):
        return False, f"{fault}; publish the checkpoint again"
    try:
        name = f"models:/{registered.name}/{version.version}"
        folder = find_model(name, tracking_uri=registered.tracking_uri)
        exported = weights.drawing_weights(folder)
        digest = weights.digest(exported)
        if digest != version.tags.get(WEIGHTS_TAG):
            return False, "its weights are not those that were published; publish the checkpoint again"
        checkpoint = Path(version.tags.get(CHECKPOINTS_TAG, "")) / version.tags.get(CHECKPOINT_TAG, "")
        if not (checkpoint / "checkpoint.json").is_file():
            return True, f"{len(exported)} tensors equal the digest of their checkpoint, which is not on this machine"
        if manifest_sha256(checkpoint) != version.tags.get(MANIFEST_TAG):
            return False, f"{checkpoint} was written again since; publish it again"
        if differs := weights.difference(exported, weights.drawing_weights(checkpoint)):
            return False, f"{differs} from {checkpoint}; publish the checkpoint again"
        if not np.array_equal(_image(folder, version), _image(checkpoint, version)):
            return False, f"it draws another image than {checkpoint}; publish the checkpoint again"
    except GenDistError as error:
        return False, " ".join(str(error).split())
    return True, f"{len(exported)} tensors and an image equal those of {checkpoint.name}"


def _image(folder: Path, version: Any) -> np.ndarray:
    prompts = json.loads(version.tags.get(JOB_TAG, "{}")).get("train", {}).get("prompts") or [""]
    return Model.load(folder).draw(prompts[:1], seed=SEED)
