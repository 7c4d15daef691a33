"""Versions that the cluster must share with the machine that submits: what they are, and the check on the cluster.

`python -m gen_dist.cluster.pins FILE`, before anything else of a submitted job, holds them against its own.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

from gen_dist.train.provenance import VERSIONS_OF

PINS = "gen-dist-pins.json"
OURS = "gen-dist"  # its code travels with the job
MISSING = "not installed"


def pins() -> dict[str, str]:
    """Package -> version of this environment, and of Python up to its minor number."""
    found = {name: _version(name) for name in VERSIONS_OF if name != OURS}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **found}


def unlike(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """`torch 2.12.0, not 2.13.0`, for each package that `found` lacks or has in another version."""
    return [
        f"{name} {found.get(name, MISSING)}, not {version}"
        for name, version in wanted.items()
        if found.get(name, MISSING) != version
    ]


def _version(name: str) -> str:
    """Without the build (`+cu130`): a laptop and its cluster rarely have the same."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def main(file: str) -> int:
    """0 where this environment has the versions that `file` names; else 2, and a line that says what differs."""
    found = unlike(json.loads(Path(file).read_text(encoding="utf-8")), pins())
    if found:
        print(  # noqa: T201  the log of a submitted job is its standard output
            f"{platform.node()}: {sys.executable} has {'; '.join(found)}: install there what the job was submitted with"
            " (infra/constraints), or submit it from an environment like the cluster's",
            file=sys.stderr,
        )
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
