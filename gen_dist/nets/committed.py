"""What a checkpoint in a folder says and holds, for networks that are built from another run's.

`gen_dist.checkpoint` reads any checkpoint anywhere, and checks it. This reads a few tensors of one on a disk and needs
nothing of it, so that networks and the code that travels with a model stay plain torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}
MANIFEST, TOMBSTONE = "MANIFEST.json", "TOMBSTONE.json"
_NAME = re.compile(r"images-\d{12}\.a\d{6}")
_FILE = re.compile(r"rank\d{5}(-\d{5})?\.safetensors")


def newest_committed(folder: Path) -> Path | None:
    """`folder`, where it is a checkpoint; else the newest checkpoint of the run it is of."""
    if (folder / MANIFEST).is_file():
        return folder
    found = [path for path in (folder / "checkpoints").glob("images-*") if _NAME.fullmatch(path.name)]
    whole = [path for path in found if (path / MANIFEST).is_file() and not (path / TOMBSTONE).exists()]
    return max(whole, default=None)


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """Images and job. Raises: OSError, ValueError, KeyError, TypeError."""
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    return {"images": manifest["images"], "job": manifest["facts"]["job"]}


def read_tensors(checkpoint: Path, wanted: Callable[[str], str | None]) -> dict[str, Tensor]:
    """Whole tensors by the name that `wanted` gives their key, None for those to leave out.

    Raises: OSError, ValueError, KeyError, TypeError, IndexError.
    """
    manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
    names, found, missing = {}, {}, {}
    for number, (key, dtype, shape) in enumerate(manifest["tensors"]):
        if (name := wanted(key)) is not None:
            names[number] = name
            found[name] = torch.empty(shape, dtype=DTYPES[dtype])
            missing[name] = math.prod(shape)
    for file, entry in manifest["files"].items():
        if not _FILE.fullmatch(file):
            raise ValueError(f"{file!r} is no name of a file of a checkpoint")
        with (checkpoint / file).open("rb") as opened:
            for number, start, numel, offset in entry["fragments"]:
                if number in names:
                    flat = found[names[number]].reshape(-1)
                    opened.seek(offset)
                    data = opened.read(numel * flat.element_size())
                    flat[start : start + numel] = torch.frombuffer(bytearray(data), dtype=flat.dtype)
                    missing[names[number]] -= numel
    if any(missing.values()):
        raise ValueError(f"{max(missing, key=missing.__getitem__)} is not whole")
    return found
