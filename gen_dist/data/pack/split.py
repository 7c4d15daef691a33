"""Which split of a data set a file belongs to, by the names of its folders and its own."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gen_dist.data.errors import DataError

SPLITS = ("train", "validation", "valid", "val", "dev", "test")


def split_of(name: str) -> str:
    """The split that a path below the source names, by the topmost part that names one; "" where none does.

    So `test/train_station.jpg` is of `test`.
    """
    for part in name.lower().split("/"):
        words = re.split(r"[\-_.]", part)
        if found := next((known for known in SPLITS if known in words), ""):
            return found
    return ""


def check_split(wanted: str, seen: Iterable[str], *, where: str) -> None:
    """Raises: DataError naming the splits that are there, where the wanted one is not."""
    seen = sorted(set(seen))
    if wanted not in seen:
        listed = ", ".join(filter(None, seen)) or "no named splits: leave --split out"
        raise DataError(f"--split {wanted}: no such split", shard=where, remedy=f"it has {listed}")
