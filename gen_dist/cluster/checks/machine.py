"""What a machine says of itself: its packages, its room on disks and in shared memory, its CPUs, its token."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ray

import gen_dist
from gen_dist.train.footprint import disk_of
from gen_dist.train.preflight import shared_memory_bytes
from gen_dist.train.provenance import VERSIONS_OF


def look(folders: Sequence[str]) -> dict[str, Any]:
    """JSON-able facts about this machine; `folders`: whose disks are looked at, whether or not they are there yet."""
    temporary = _ray_folder()
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in VERSIONS_OF} | {"gen-dist": gen_dist.__version__},
        "code": code_digest(),
        "cpus": os.cpu_count() or 1,
        "token_auth": _token_auth(),
        "shared_memory_bytes": shared_memory_bytes(),
        "disks": {folder: disk_of(folder) for folder in [*folders, temporary]},
        "ray_folder": temporary,
    }


@cache
def code_digest() -> str:
    """sha256 of this package's Python files: two machines with one version number may run different code."""
    root, sha = Path(gen_dist.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sha.update(f"{path.relative_to(root).as_posix()}\0".encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()


def _version(name: str) -> str:
    """Installed version; empty where the package is missing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _ray_folder() -> str:
    """Where Ray keeps its sessions on this machine, with the logs of all processes."""
    node = ray._private.worker._global_node if ray.is_initialized() else None
    return str(node.get_temp_dir_path()) if node is not None else tempfile.gettempdir()


def _token_auth() -> bool | None:
    """Whether Ray asks for a token here; None where this process has nothing to do with Ray."""
    if not ray.is_initialized():
        return None
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())
