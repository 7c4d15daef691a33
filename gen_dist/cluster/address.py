"""Which cluster is meant: the one that is named, else the environment's, else where the job was submitted to from here.

What was submitted from this machine is kept in `gen-dist/clusters.json` of XDG_STATE_HOME: addresses and ids only.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ray.dashboard.utils import get_address_for_submission_client

from gen_dist.cluster.errors import JobsError
from gen_dist.registry.secrets import without_secrets

OURS = "GENDIST_CLUSTER"
RAYS = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
MOST_JOBS = 200


def address(cluster: str, *, job_id: str = "") -> str:
    """Address of a dashboard. `cluster`: what was typed, if anything. Raises: JobsError."""
    said = (cluster or os.environ.get(OURS, "")).strip()
    if said:
        return _checked(said, "--cluster" if cluster else OURS)
    name = next((name for name in RAYS if os.environ.get(name)), "")
    if name:
        return _as_ray_has_it(name)
    known = _read()
    found = known["jobs"].get(job_id) or known["last"]
    if not found:
        raise JobsError(
            "which cluster? Name the address of its dashboard with --cluster or"
            f" {OURS}, such as http://HEAD:8265 (the address of its Ray is for its own machines)"
        )
    return str(found)


def submitted_to(job_id: str) -> str:
    """Where a job was submitted to from this machine; empty where it was not."""
    return str(_read()["jobs"].get(job_id, ""))


def remember(job_id: str, url: str) -> None:
    """Note where a job is. A home that cannot be written to forgets."""
    known = _read()
    jobs = {name: where for name, where in known["jobs"].items() if name != job_id}
    kept = dict(list(jobs.items())[1 - MOST_JOBS :])
    with contextlib.suppress(OSError):
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_text(json.dumps({"last": url, "jobs": {**kept, job_id: url}}, indent=2) + "\n", encoding="utf-8")
        new.replace(path)


def _checked(text: str, origin: str) -> str:
    if without_secrets(text) != text:
        raise JobsError(
            f"{origin}: an address with a user or a password in it; leave them out: a cluster of Ray asks for a token,"
            " which is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
        )
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        named = parts.scheme in ("http", "https") and parts.hostname and (parts.port or parts.port is None)
    except ValueError:  # a port that is no number, or too large
        named = False
    if not named or any(letter.isspace() for letter in parts.netloc):
        raise JobsError(f"{origin} {text}: not the address of a dashboard; write such as http://HEAD:8265")
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))  # of a page, as browsers show it


def _as_ray_has_it(name: str) -> str:
    """Ray's own variables may hold other addresses too, such as of its GCS; Ray knows the dashboard of those."""
    text = os.environ[name]
    if text.startswith(("http://", "https://")):
        return _checked(text, name)
    try:
        found = get_address_for_submission_client(None)
    except Exception as error:  # noqa: BLE001  whatever Ray raises where there is none
        why = " ".join(str(error).split()) or type(error).__name__
        raise JobsError(
            f"{name}={without_secrets(text)}: Ray finds no dashboard there ({why}); name it with --cluster or {OURS},"
            " such as http://HEAD:8265"
        ) from None
    return _checked(found, name)


def _file() -> Path:
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "gen-dist" / "clusters.json"


def _read() -> dict[str, Any]:
    """What is remembered; nothing where the file is not there or not ours."""
    try:
        known = json.loads(_file().read_text(encoding="utf-8"))
        if isinstance(known, Mapping) and isinstance(known.get("jobs"), Mapping):
            return {"last": str(known.get("last", "")), "jobs": dict(known["jobs"])}
    except (OSError, ValueError):
        pass
    return {"last": "", "jobs": {}}
