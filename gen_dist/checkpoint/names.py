"""Names of the objects of a run's checkpoints. Nothing else in the package knows how an object is called."""

from __future__ import annotations

import re
from dataclasses import dataclass

ATTEMPTS = "attempts/*.json"
HEAD = "HEAD.json"
PINS = "pins/*.json"
MANIFEST = "MANIFEST.json"
TOMBSTONE = "TOMBSTONE.json"

_ATTEMPT = re.compile(r"attempts/(\d{6})\.json")
_CHECKPOINT = re.compile(r"images-(\d{12})\.a(\d{6})")
_FILE = re.compile(r"rank\d{5}(-\d{5})?\.safetensors")
_DONE = re.compile(r"done/rank(\d{5})\.json")


@dataclass(frozen=True, order=True)
class Name:
    """What a checkpoint is called: how far the run was, and which worker group wrote it. Sorts by age."""

    images: int
    """Images learned from."""
    attempt: int
    """Number of the worker group; part of the name, so that two groups never write to one object."""

    def __str__(self) -> str:
        return f"images-{self.images:012d}.a{self.attempt:06d}"

    @property
    def manifest(self) -> str:
        return f"{self}/{MANIFEST}"

    @property
    def tombstone(self) -> str:
        return f"{self}/{TOMBSTONE}"

    def done(self, rank: int | None = None) -> str:
        """The object that says that a worker's files are whole; without a rank, a pattern of all of them."""
        return f"{self}/done/*.json" if rank is None else f"{self}/done/rank{rank:05d}.json"

    def file(self, name: str) -> str:
        """A file of tensors, by its name within the checkpoint."""
        return f"{self}/{name}"

    @classmethod
    def parse(cls, text: str) -> Name | None:
        """None for what is no name of a checkpoint."""
        found = _CHECKPOINT.fullmatch(text)
        return cls(int(found[1]), int(found[2])) if found else None


def file_name(rank: int, number: int) -> str:
    """Within the checkpoint, the worker's file `number` (0 for the first and mostly only one)."""
    return f"rank{rank:05d}-{number:05d}.safetensors" if number else f"rank{rank:05d}.safetensors"


def is_file_name(text: str) -> bool:
    """Whether it is a name that `file_name` gives: nothing else leads anywhere."""
    return _FILE.fullmatch(text) is not None


def rank_of_done(name: str) -> int | None:
    """The rank of a `done` object, by its name below the checkpoint's folder or below the store."""
    found = _DONE.fullmatch("/".join(name.split("/")[-2:]))
    return int(found[1]) if found else None


def attempt_name(attempt: int) -> str:
    return f"attempts/{attempt:06d}.json"


def attempt_of(name: str) -> int | None:
    """The number in the name of an attempt's object."""
    found = _ATTEMPT.fullmatch(name)
    return int(found[1]) if found else None
