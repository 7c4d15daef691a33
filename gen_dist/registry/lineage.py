"""Where a model comes from, as tags: its checkpoint, data, job and code, and what it was resumed from."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_dist import __version__
from gen_dist.job.spec import JobSpec
from gen_dist.registry.secrets import without_secrets

if TYPE_CHECKING:  # torch comes with it, which the process beside a run does without
    from gen_dist.registry.origin import Origin

ROOT = Path(__file__).resolve().parents[2]
GIT_S = 10.0
GATES_TAG = "gates"
JOB_TAG = "job"
CHECKPOINT_TAG = "checkpoint"
CHECKPOINTS_TAG = "checkpoints"
MANIFEST_TAG = "manifest_sha256"
WEIGHTS_TAG = "weights_sha256"
MODEL_TAG = "model_id"  # of the LoggedModel: a database does not keep it with a version, a server does
SHORT = ("recipe", "images", "data_digest", CHECKPOINT_TAG, MANIFEST_TAG, "job_sha256", "code")  # of a LoggedModel


def lineage(origin: Origin, *, job: JobSpec, heldout_digest: str) -> dict[str, str]:
    """Tag -> value, of the model in a checkpoint that becomes a version. No user and no password of an address."""
    from gen_dist.registry import weights

    return {
        **short_lineage_of(origin, heldout_digest=heldout_digest),
        CHECKPOINTS_TAG: without_secrets(origin.url),
        WEIGHTS_TAG: weights.digest(origin.tensors()),
        "resumed_from": origin.resumed_from(),
        JOB_TAG: json.dumps(without_secrets(dict(origin.job)), sort_keys=True),
        GATES_TAG: json.dumps(gates_of(job), sort_keys=True),
    }


def short_lineage_of(origin: Origin, *, heldout_digest: str) -> dict[str, str]:
    """The short lineage of a checkpoint, as it says itself."""
    return short_lineage(
        origin.job,
        images=origin.images,
        data_digest=origin.data_digest,
        heldout_digest=heldout_digest,
        checkpoint=origin.name,
        manifest_sha256=origin.sha256(),
    )


def short_lineage(
    job: Mapping[str, Any],
    *,
    images: int,
    data_digest: str,
    heldout_digest: str,
    checkpoint: str,
    manifest_sha256: str,
) -> dict[str, str]:
    """The part of the lineage that costs nothing to know: short enough for a LoggedModel too. `job`: resolved."""
    return {
        "recipe": str(job["recipe"]),
        "images": str(images),
        "data_digest": data_digest,
        "heldout_digest": heldout_digest,
        CHECKPOINT_TAG: checkpoint,
        MANIFEST_TAG: manifest_sha256,
        "job_sha256": job_digest(without_secrets(dict(job))),
        "code": code(),
    }


def gates_of(job: JobSpec) -> dict[str, Any]:
    """What a model of this job must show before it becomes champion."""
    return job.registry.model_dump(mode="json", exclude={"store", "s3"})


def job_digest(resolved: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved job: equal where every key is."""
    text = json.dumps(resolved, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def code() -> str:
    """Version of this package, and its git commit where it runs from a clone; `+changes` where files differ."""
    if not (ROOT / ".git").exists():
        return __version__
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if not commit:
        return __version__
    return f"{__version__} {commit}{'+changes' if changes else ''}"


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=GIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
