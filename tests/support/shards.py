"""Small WebDataset shards of real structure, written by webdataset itself."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image


@dataclass(frozen=True)
class Wanted:
    """A field as a recipe asks for it."""

    kind: str
    shape: tuple[int, ...] = ()
    member: str = ""
    dtype: str = "float32"


FIELDS = {"image": Wanted("image", (3, 16, 16)), "caption": Wanted("caption"), "label": Wanted("label")}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def noise(seed: int, *, size_px: int = 16, mode: str = "RGBA") -> Image.Image:
    """An image of random pixels, transparency included."""
    channels = len(mode)
    pixels = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode)


def write_shards(folder: Path, *, num_samples: int, per_shard: int, stem: str = "train") -> None:
    """Sample i has i in its caption and as its label, and an image of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, num_samples, per_shard):
        with wds.TarWriter(str(folder / f"{stem}-{first // per_shard:05d}.tar")) as tar:
            for number in range(first, min(first + per_shard, num_samples)):
                record = {"label": number, "name": f"sample {number}"}
                members = {"png": png(noise(number)), "txt": f"caption {number}", "json": record}
                tar.write({"__key__": f"{number:06d}", **members})
