"""What an archive of an older release holds."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TRUTH = "truth.npz"
Truths = dict[str, dict[str, np.ndarray]]


def names(writer: str) -> list[str]:
    """Of the archives of one writer."""
    return sorted(path.name for path in HERE.glob(f"{writer}-*.tar.xz"))


def unpack(name: str, folder: Path) -> Truths:
    """The truth by way; the checkpoints of it are in `folder`, by way too."""
    with tarfile.open(HERE / name) as archive:
        archive.extractall(folder, filter="data")
    return {path.parent.name: dict(np.load(path, allow_pickle=False)) for path in folder.glob(f"*/{TRUTH}")}
