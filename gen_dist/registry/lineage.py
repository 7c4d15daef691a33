"""Where a model comes from, as tags: its checkpoint, data, job and code, and what it was resumed from."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen_dist import __version__
from gen_dist.checkpoint import Manifest
from gen_dist.job.spec import JobSpec
from gen_dist.registry import weights
from gen_dist.registry.secrets import without_secrets

ROOT = Path(__file__).resolve().parents[2]
GIT_S = 10.0
GATES_TAG = "gates"
JOB_TAG = "job"
CHECKPOINT_TAG = "checkpoint"
CHECKPOINTS_TAG = "checkpoints"
MANIFEST_TAG = "manifest_sha256"
WEIGHTS_TAG = "weights_sha256"
SHORT = ("recipe", "images", "data_digest", CHECKPOINT_TAG, MANIFEST_TAG, "job_sha256", "code")  # of a LoggedModel


def lineage(checkpoint: Path, manifest: Manifest, *, job: JobSpec, heldout_digest: str) -> dict[str, str]:
    """Tag -> value, of the model in a checkpoint that becomes a version. No user and no password of an address."""
    return {
        **origin(checkpoint, manifest, heldout_digest=heldout_digest),
        CHECKPOINTS_TAG: str(checkpoint.absolute().parent),
        WEIGHTS_TAG: weights.digest(weights.drawing_weights(checkpoint)),
        "resumed_from": _resumed_from(checkpoint, manifest.images),
        JOB_TAG: json.dumps(without_secrets(manifest.job), sort_keys=True),
        GATES_TAG: json.dumps(gates_of(job), sort_keys=True),
    }


def origin(checkpoint: Path, manifest: Manifest, *, heldout_digest: str) -> dict[str, str]:
    """The part of the lineage that costs nothing to know: short enough for a LoggedModel too."""
    return {
        "recipe": str(manifest.job["recipe"]),
        "images": str(manifest.images),
        "data_digest": manifest.data_digest,
        "heldout_digest": heldout_digest,
        CHECKPOINT_TAG: checkpoint.name,
        MANIFEST_TAG: manifest_sha256(checkpoint),
        "job_sha256": job_digest(without_secrets(manifest.job)),
        "code": code(),
    }


def manifest_sha256(checkpoint: Path) -> str:
    """SHA-256 of what a checkpoint says about itself."""
    return hashlib.sha256((checkpoint / "checkpoint.json").read_bytes()).hexdigest()


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


def _resumed_from(checkpoint: Path, images: int) -> str:
    """Name of the checkpoint that the last start before this one went on from; empty for a run without a break."""
    log = checkpoint.absolute().parent.parent / "events.jsonl"
    found = ""
    if not log.is_file():
        return found
    with log.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if '"start"' not in line:
                continue
            try:
                event = json.loads(line)
                if event["kind"] == "start" and event["images"] <= images:
                    found = Path(event.get("resumed_from") or "").name
            except (ValueError, KeyError, TypeError):
                continue  # a line that a dying process cut
    return found
