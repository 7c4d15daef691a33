"""Does an exported model hold what was trained: read back, compared bit for bit, and drawn from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gen_dist.job.errors import GenDistError
from gen_dist.registry import exports, weights
from gen_dist.registry.find import find_model
from gen_dist.registry.lineage import CHECKPOINT_TAG, CHECKPOINTS_TAG, JOB_TAG, MANIFEST_TAG, WEIGHTS_TAG
from gen_dist.registry.origin import Origin, find_origin
from gen_dist.registry.registered import Registered

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
        exported = Origin(find_model(name, tracking_uri=registered.tracking_uri))
        tensors = exported.tensors()
        if weights.digest(tensors) != version.tags.get(WEIGHTS_TAG):
            return False, "its weights are not those that were published; publish the checkpoint again"
        trained = find_origin(version.tags.get(CHECKPOINTS_TAG, ""), version.tags.get(CHECKPOINT_TAG, ""))
        if trained is None:
            return True, f"{len(tensors)} tensors equal the digest of their checkpoint, which is not on this machine"
        if trained.sha256() != version.tags.get(MANIFEST_TAG):
            return False, f"{trained.name} was written again since; publish it again"
        if differs := weights.difference(tensors, trained.tensors()):
            return False, f"{differs} from {trained.name}; publish the checkpoint again"
        prompt = _prompt(version)
        if not np.array_equal(exported.draw(prompt, seed=SEED), trained.draw(prompt, seed=SEED)):
            return False, f"it draws another image than {trained.name}; publish the checkpoint again"
    except GenDistError as error:
        return False, " ".join(str(error).split())
    return True, f"{len(tensors)} tensors and an image equal those of {trained.name}"


def _prompt(version: Any) -> str:
    prompts = json.loads(version.tags.get(JOB_TAG, "{}")).get("train", {}).get("prompts")
    return str(prompts[0]) if prompts else ""
