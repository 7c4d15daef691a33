"""What a person may choose about a pack: where the samples come from, and what becomes of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gen_dist.data.errors import DataError

if TYPE_CHECKING:
    from gen_dist.job.spec import S3Spec

FORMATS = ("keep", "jpeg", "webp", "png")
HELDOUT = "heldout"
DEFAULT_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """Where the samples come from."""

    url: str
    """A folder, one parquet file, or an `s3://bucket/prefix` of tars."""
    captions: str = ""
    """A csv, tsv, jsonl or parquet file with a row for each image; empty: sidecars, or what the folder brings."""
    image_column: str = ""
    """Empty: guessed."""
    caption_column: str = ""
    """Empty: guessed."""
    split: str = ""
    """Of a data set that has several, by the names of its folders or files; empty: the only one, or all images."""
    pattern: str = "*.tar"
    """Of the tars, where the source is made of them."""
    s3: S3Spec | None = None


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """What becomes of each sample. The same options on the same source give the same bytes."""

    size_px: int = 0
    """The shorter side afterwards; 0 keeps the size."""
    upscale: bool = False
    """Whether images below `size_px` are enlarged."""
    format: str = "keep"
    """One of FORMATS."""
    quality: int = 0
    """1 to 100, for JPEG and WebP, and then every image is encoded anew; 0: DEFAULT_QUALITY where one has to be."""
    min_size_px: int = 0
    """Images with a shorter side are left out."""
    max_aspect: float = 0.0
    """Images whose longer side is more than this many times the shorter are left out; 0: no bound."""
    shard_mb: int = 256
    """Size of a shard in MiB, nearly: shards of a pack are of equal size."""
    heldout: float = 0.0
    """Share of the samples, chosen by their keys alone, that goes to shards of their own."""
    prefix: str = "train"
    """Of the names of the shards."""
    allow_uncaptioned: bool = False
    """Whether samples without a caption are packed although others have one."""

    def __post_init__(self) -> None:
        for option, is_good, remedy in (
            (f"--format {self.format}", self.format in FORMATS, f"write one of {', '.join(FORMATS)}"),
            (f"--size {self.size_px}", self.size_px >= 0, "write pixels of the shorter side, such as 256"),
            (f"--quality {self.quality}", 0 <= self.quality <= 100, "write 1 to 100, such as 95"),
            (f"--min-size {self.min_size_px}", self.min_size_px >= 0, "write pixels, such as 64"),
            (f"--max-aspect {self.max_aspect}", self.max_aspect == 0 or self.max_aspect >= 1, "write 1 or more"),
            (f"--shard-mb {self.shard_mb}", self.shard_mb >= 1, "write MiB, such as 256"),
            (f"--heldout {self.heldout}", 0 <= self.heldout < 1, "write a share such as 0.01"),
            ("--upscale", not self.upscale or self.size_px > 0, "it needs --size"),
            (f"--prefix {self.prefix!r}", bool(re.fullmatch(r"[\w-]+", self.prefix)), "use letters, digits, _ and -"),
            (f"--prefix {self.prefix}", not self.prefix.startswith(HELDOUT), "held-out shards have that name"),
        ):
            if not is_good:
                raise DataError(f"{option} cannot be", remedy=remedy)
        if self.quality and self.format == "png":
            raise DataError("--quality has no meaning for png", remedy="leave it out, or write --format webp")

    @property
    def shard_bytes(self) -> int:
        return self.shard_mb << 20
