"""What one process of a benchmark reads and what it reports: plain values, that torch is not needed for."""

from __future__ import annotations

from dataclasses import dataclass

BATCH_SAMPLES = 64
IMAGE_PX = 256
LATENT_SHAPE = (4, 32, 32)
TEXT_SHAPE = (77, 768)


@dataclass(frozen=True)
class Task:
    """What one process reads."""

    reader: str
    """A module of tests.speed.stream.readers."""
    kind: str
    """"jpeg" or "latents"."""
    endpoint_url: str
    url: str
    """s3://bucket/prefix, the reader's own format below it."""
    shards: list[str]
    """Names of the tars below the prefix of tars."""
    num_samples: int
    local: str
    """An empty folder for what the reader keeps on disk."""
    num_workers: int
    """Worker processes of a peer's loader."""
    num_epochs: int = 1
    first_sample: int = 0
    """Where to start; a multiple of BATCH_SAMPLES."""
    drop: str = "samples"
    """How a reader that cannot seek gets there: it drops "samples" before they are decoded, or "batches" after."""
    num_batches: int = 0
    """Batches to read; 0: to the end of the epoch."""


@dataclass(frozen=True)
class Measured:
    """What the process took."""

    wall_s: float
    cpu_s: float
    """Of the process and its children, the server's not included."""
    first_s: float
    """Until the first batch."""
    num_samples: int
    witness: float
    """A sum over the samples: of the pixels in the middle, or of the first numbers of each array."""
