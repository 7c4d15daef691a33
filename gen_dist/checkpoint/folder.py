"""Which checkpoints a run has, newest last, and which of them to keep.

A checkpoint is a folder `images-000000012800`. It is written under a name that starts with a dot and renamed when it is
whole, so a folder that can be seen is complete.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_NAME = re.compile(r"images-(\d{12})")


def name_of(images: int) -> str:
    """Folder name of the checkpoint after `images` images; sorts by age."""
    return f"images-{images:012d}"


def checkpoints(folder: Path) -> list[Path]:
    """All complete checkpoints below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())


def newest(folder: Path) -> Path | None:
    """The last complete checkpoint, or None in a fresh run."""
    found = checkpoints(folder)
    return found[-1] if found else None


def keep_newest(folder: Path, count: int) -> list[Path]:
    """Remove all but the newest `count` checkpoints, and what broken writers left. Returns what was removed."""
    doomed = checkpoints(folder)[:-count] if count > 0 else []
    doomed += [path for path in folder.glob(".images-*") if path.is_dir()]
    for path in doomed:
        hidden = path if path.name.startswith(".") else path.rename(path.with_name(f".{path.name}"))
        shutil.rmtree(hidden)
    return doomed
