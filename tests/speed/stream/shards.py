"""The tars that all sides read: the same bytes every time, made here from the embedded emoji and a seed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from tests.speed.stream.task import IMAGE_PX, LATENT_SHAPE, TEXT_SHAPE

EMOJI = Path(__file__).resolve().parents[3] / "gen_dist" / "data" / "emoji"
VERSION = 1  # raise it when other bytes are made: what was kept is then made anew
JPEG_QUALITY = 90
EMOJI_PX = 192
NOISE_LEVELS = 18  # gives JPEGs of 16 KB
NUM_PICTURES = 3840  # different ones; more samples repeat them under new keys
POOL_NUMBERS = 1 << 20  # random numbers that a sample takes a stretch of: drawing anew would take minutes


@dataclass(frozen=True)
class Shards:
    """A set of tars."""

    kind: str
    """"jpeg": jpg, txt and json members. "latents": two fp16 arrays, latent.npy and text.npy."""
    num_shards: int
    shard_samples: int
    """In each of them."""

    @property
    def name(self) -> str:
        """Different for different bytes."""
        return f"{self.kind}-{self.num_shards}x{self.shard_samples}-v{VERSION}"

    @property
    def names(self) -> list[str]:
        return [f"train-{number:05d}.tar" for number in range(self.num_shards)]

    @property
    def num_samples(self) -> int:
        return self.num_shards * self.shard_samples

    def write(self, folder: Path) -> None:
        """The tars, into a new folder."""
        folder.mkdir(parents=True)
        samples = (_photos if self.kind == "jpeg" else _latents)(self.num_samples)
        for name in self.names:
            with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
                for _ in range(self.shard_samples):
                    for member, data in next(samples).items():
                        info = tarfile.TarInfo(member)
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))


def _photos(num_samples: int) -> Iterator[Mapping[str, bytes]]:
    pictures = list(_pictures(min(num_samples, NUM_PICTURES)))
    for number in range(num_samples):
        jpeg, caption = pictures[number % len(pictures)]
        record = json.dumps({"label": number % 10, "caption": caption, "width": IMAGE_PX, "height": IMAGE_PX})
        key = f"{number:08d}"
        yield {f"{key}.jpg": jpeg, f"{key}.txt": caption.encode(), f"{key}.json": record.encode()}


def _pictures(count: int) -> Iterator[tuple[bytes, str]]:
    """An emoji somewhere on a noisy ground of one colour: (JPEG, caption)."""
    draw = np.random.Generator(np.random.Philox(key=[VERSION, 0]))
    pool = draw.integers(0, NOISE_LEVELS, (2 * IMAGE_PX, 2 * IMAGE_PX, 1), dtype=np.uint8)
    emoji = _emoji(count)
    for number in range(count):
        top, left = draw.integers(0, IMAGE_PX, 2)
        colour = draw.integers(20, 220, 3, dtype=np.uint8)
        image = Image.fromarray(pool[top : top + IMAGE_PX, left : left + IMAGE_PX] + colour)
        picture, caption = emoji[number % len(emoji)]
        x, y = draw.integers(0, IMAGE_PX - EMOJI_PX, 2).tolist()
        image.paste(picture, (x, y), picture)
        yield simplejpeg.encode_jpeg(np.asarray(image), JPEG_QUALITY, colorsubsampling="420"), caption


def _emoji(count: int) -> list[tuple[Image.Image, str]]:
    """At most `count` of them, with their captions."""
    members: dict[str, bytes] = {}
    for path in sorted(EMOJI.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            members |= {member.name: file.read() for member in tar if (file := tar.extractfile(member)) is not None}
    keys = sorted(name.removesuffix(".png") for name in members if name.endswith(".png"))
    size = (EMOJI_PX, EMOJI_PX)
    return [
        (Image.open(io.BytesIO(members[f"{key}.png"])).convert("RGBA").resize(size), members[f"{key}.txt"].decode())
        for key in keys[:count]
    ]


def _latents(num_samples: int) -> Iterator[Mapping[str, bytes]]:
    draw = np.random.Generator(np.random.Philox(key=[VERSION, 1]))
    pool = draw.standard_normal(POOL_NUMBERS, dtype=np.float32).astype(np.float16)
    for number in range(num_samples):
        arrays = {}
        for name, shape in (("latent", LATENT_SHAPE), ("text", TEXT_SHAPE)):
            size = int(np.prod(shape))
            first = int(draw.integers(0, POOL_NUMBERS - size))
            file = io.BytesIO()
            np.save(file, pool[first : first + size].reshape(shape))
            arrays[f"{number:08d}.{name}.npy"] = file.getvalue()
        yield arrays
