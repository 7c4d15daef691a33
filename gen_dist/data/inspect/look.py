"""A look into shards: what the index says of all samples, and what a random few of them say of their content."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from gen_dist.data.index import Index, Sample, find_index
from gen_dist.data.pack.folder import caption_in
from gen_dist.data.pack.listing import IMAGE_EXTENSIONS
from gen_dist.data.pack.pictures import UNREADABLE
from gen_dist.store import Store

NUM_MEASURED = 512
NUM_EXAMPLES = 5
HEADER_BYTES = 1 << 16  # in which an image nearly always says its size
NUM_READS_AT_ONCE = 16
ASPECTS = (  # width / height below which a picture is in the band
    (0.5, "below 1:2"),
    (0.7, "1:2 to 2:3"),
    (0.95, "3:4, 4:5"),
    (1.06, "square"),
    (1.4, "5:4, 4:3"),
    (2.0, "3:2, 16:9"),
    (float("inf"), "2:1 and above"),
)


@dataclass(frozen=True)
class Seen:
    """One sample that was read."""

    key: str
    shard: str
    caption: str | None
    image: bytes
    """All of it, or its first bytes where only its size was wanted; empty where the sample has none."""
    extension: str
    width_px: int
    """0 where it cannot be told."""
    height_px: int
    is_whole: bool


@dataclass(frozen=True)
class Look:
    """What was found. `facts` can be written as JSON; `shown` are the samples of the contact sheet, images whole."""

    facts: dict[str, Any]
    shown: list[Seen] = field(default_factory=list)


def look(store: Store, pattern: str, *, num_shown: int, seed: int) -> Look:
    """Reads the index and a random few of the samples; the same seed takes the same ones.

    Raises: DataError where no shard matches or one is broken; StoreError.
    """
    index = find_index(store, pattern)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(index))[: max(num_shown, NUM_MEASURED)].tolist()

    def see(place: int) -> Seen:
        return _see(store, index.sample(chosen[place]), is_whole=place < num_shown)

    with ThreadPoolExecutor(NUM_READS_AT_ONCE) as pool:
        seen = list(pool.map(see, range(len(chosen))))
    return Look({"url": store.url, "pattern": pattern, **_of_index(index), **_of_samples(seen)}, seen[:num_shown])


def _see(store: Store, sample: Sample, *, is_whole: bool) -> Seen:
    def read(name: str, limit_bytes: int | None = None) -> bytes:
        start, size = sample.members[name]
        end = start + (size if limit_bytes is None else min(size, limit_bytes))
        return bytes(store.read(sample.shard.name, start, end, version=sample.shard.version))

    extension = next((name for name in IMAGE_EXTENSIONS if name in sample.members), "")
    image = read(extension, None if is_whole else HEADER_BYTES) if extension else b""
    caption: str | None = None
    if "txt" in sample.members:
        caption = read("txt").decode("utf-8", "replace").strip()
    elif "json" in sample.members:
        caption = _caption_of_record(read("json"))
    width_px, height_px = _size_px(image)
    return Seen(sample.key, sample.shard.name, caption, image, extension, width_px, height_px, is_whole)


def _caption_of_record(data: bytes) -> str | None:
    try:
        record = json.loads(data)
    except ValueError:
        return None
    return caption_in(record) if isinstance(record, dict) else None


def _size_px(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except UNREADABLE:
        return 0, 0


def _of_index(index: Index) -> dict[str, Any]:
    extensions: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for number, shard in enumerate(index.shards):
        extensions.update(shard.num_by_extension)
        if shard.num_left_out:
            left_out.update(left.reason for left in index.table(number).left_out)
    sizes_bytes = [shard.size_bytes for shard in index.shards]
    return {
        "shards": len(index.shards),
        "samples": len(index),
        "size_bytes": sum(sizes_bytes),
        "shard_bytes": spread(sizes_bytes),
        "samples_of_a_shard": spread([shard.num_samples for shard in index.shards]),
        "extensions": dict(extensions.most_common()),
        "indexed": index.is_stored,
        "left_out": dict(left_out.most_common()),
    }


def _of_samples(seen: Sequence[Seen]) -> dict[str, Any]:
    sized = [sample for sample in seen if sample.width_px]
    captions = [sample.caption for sample in seen if sample.caption]
    aspects = Counter(_aspect(sample) for sample in sized)
    return {
        "measured": len(seen),
        "unreadable": [f"{s.shard} {s.key}" for s in seen if s.is_whole and s.image and not s.width_px],
        "width_px": spread([sample.width_px for sample in sized]),
        "height_px": spread([sample.height_px for sample in sized]),
        "aspects": {name: aspects[name] for _, name in ASPECTS if aspects[name]},
        "with_caption": len(captions),
        "caption_characters": spread([len(caption) for caption in captions]),
        "captions": captions[:NUM_EXAMPLES],
    }


def _aspect(sample: Seen) -> str:
    aspect = sample.width_px / sample.height_px
    return next(name for bound, name in ASPECTS if aspect < bound)


def spread(values: Sequence[int]) -> dict[str, int]:
    """Smallest, median and largest; empty where there are none."""
    if not values:
        return {}
    return {"min": min(values), "median": int(np.median(values)), "max": max(values)}
