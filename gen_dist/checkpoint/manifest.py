"""The manifest of a checkpoint: what it holds and where, written last. What is read is believed only where it adds up.

A part is what one worker says of its files (its `done` object); the manifest is all parts put together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.names import Name, is_file_name
from gen_dist.checkpoint.piece import DTYPE_NAMES, DTYPES, Fragment, tiling_fault

FORMAT = "gen-dist-checkpoint-2"
MAX_MANIFEST_BYTES = 1 << 30
MAX_NUMEL = 1 << 48
MAX_DIMENSIONS = 32
FIRST_OFFSET = 8  # a file begins with the length of its header
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor and where its elements are."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    fragments: list[Fragment]
    """Sorted by start; none overlap."""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileEntry:
    """One file, by its name within the checkpoint."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Part:
    """Tensors and files that belong together: of one worker, or of all."""

    tensors: dict[str, TensorEntry] = field(default_factory=dict)
    """By key, each with the fragments that these files hold."""
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())

    def to_json(self) -> dict[str, Any]:
        """Fragments are [number of the tensor, start, numel, offset] by file."""
        fragments: dict[str, list[list[int]]] = {name: [] for name in self.files}
        for number, entry in enumerate(self.tensors.values()):
            for fragment in entry.fragments:
                fragments[fragment.file].append([number, fragment.start, fragment.numel, fragment.offset])
        return {
            "tensors": [[key, DTYPE_NAMES[entry.dtype], list(entry.shape)] for key, entry in self.tensors.items()],
            "files": {
                name: {"size_bytes": file.size_bytes, "sha256": file.sha256, "fragments": fragments[name]}
                for name, file in self.files.items()
            },
        }

    @classmethod
    def from_json(cls, document: Any, *, where: str) -> Part:
        """Raises: CheckpointError for what `to_json` would not have written."""
        try:
            tensors = dict(_tensor(entry) for entry in _kind(document["tensors"], list, "tensors"))
            entries, files = list(tensors.values()), {}
            if len(entries) != len(document["tensors"]):
                raise _FaultError("a tensor is listed twice")
            for name, file in _kind(document["files"], dict, "files").items():
                files[name] = _file(name, file)
                _add_fragments(name, files[name].size_bytes, file["fragments"], entries)
        except (_FaultError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise malformed(where, error) from None
        for entry in entries:
            entry.fragments.sort()
        return cls(tensors, files)

    @classmethod
    def merge(cls, parts: Sequence[Part]) -> Part:
        """All parts as one. Raises: CheckpointError where they contradict each other."""
        tensors: dict[str, TensorEntry] = {}
        files: dict[str, FileEntry] = {}
        for part in parts:
            files.update(part.files)
            for key, entry in part.tensors.items():
                known = tensors.setdefault(key, TensorEntry(entry.dtype, entry.shape, []))
                if (known.dtype, known.shape) != (entry.dtype, entry.shape):
                    raise CheckpointError(
                        f"{key}: {known.dtype} {known.shape} on one worker, {entry.dtype} {entry.shape} on another;"
                        " give every worker the same networks"
                    )
                known.fragments.extend(entry.fragments)
        for entry in tensors.values():
            entry.fragments.sort()
        return cls(tensors, files)

    def check_tiling(self, where: str) -> None:
        """That every element of every tensor is there once. Raises: CheckpointError."""
        for key, entry in self.tensors.items():
            fault = tiling_fault(entry.shape, entry.fragments)
            if fault:
                raise CheckpointError(f"{where}: {key}: {fault}; take an older checkpoint")


@dataclass(frozen=True)
class Manifest:
    """What MANIFEST.json says. That it is there makes the checkpoint one."""

    name: Name
    step: int
    world_size: int
    """Workers that wrote it."""
    parent: str | None
    """The checkpoint before it in the history of the run; None for the first one."""
    contents: Part
    facts: dict[str, Any]
    """What else the run must know again: job, group_steps, data_digest, versions, stream, scores ..."""

    @property
    def images(self) -> int:
        return self.name.images

    @property
    def attempt(self) -> int:
        return self.name.attempt

    @property
    def tensors(self) -> dict[str, TensorEntry]:
        return self.contents.tensors

    @property
    def files(self) -> dict[str, FileEntry]:
        return self.contents.files

    def to_bytes(self) -> bytes:
        document = {
            "format": FORMAT,
            "name": str(self.name),
            "images": self.name.images,
            "attempt": self.name.attempt,
            "step": self.step,
            "world_size": self.world_size,
            "parent": self.parent,
            "facts": self.facts,
            **self.contents.to_json(),
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, name: Name, where: str) -> Manifest:
        """Raises: CheckpointError where this is not, to the last number, a whole checkpoint of that name."""
        document = parse_json(data, where=where)
        if document.get("format") != FORMAT:
            raise CheckpointError(
                f"{where}: of the format {document.get('format')!r}, this is {FORMAT}; load it with the version that"
                " wrote it"
            )
        contents = Part.from_json(document, where=where)
        contents.check_tiling(where)
        try:
            if document["name"] != str(name):
                raise _FaultError(f"it is the manifest of {document['name']!r}")
            parent = document["parent"]
            if parent is not None and (not isinstance(parent, str) or Name.parse(parent) is None):
                raise _FaultError(f"parent is {parent!r}")
            return cls(
                name=name,
                step=_number(document["step"], "step"),
                world_size=_number(document["world_size"], "world_size"),
                parent=parent,
                contents=contents,
                facts=_kind(document["facts"], dict, "facts"),
            )
        except (_FaultError, KeyError) as error:
            raise malformed(where, error) from None


class _FaultError(Exception):
    """Something in a document is not as we write it."""


def malformed(where: str, why: object) -> CheckpointError:
    """The error of a document that cannot be ours."""
    what = f"{why} is missing" if isinstance(why, KeyError) else why
    return CheckpointError(f"{where}: damaged, or not written by gen-dist ({what}); take an older checkpoint")


def parse_json(data: bytes, *, where: str) -> dict[str, Any]:
    """A JSON object. Raises: CheckpointError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise malformed(where, f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise malformed(where, "not a JSON object")
    return document


def _kind(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise _FaultError(f"{what} is {type(value).__name__}")
    return value


def _number(value: Any, what: str, *, largest: int = MAX_NUMEL) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= largest:
        raise _FaultError(f"{what} is {str(value)[:40]}")
    return value


def _tensor(entry: Any) -> tuple[str, TensorEntry]:
    key, dtype, shape = _kind(entry, list, "a tensor")
    if not isinstance(key, str) or not key or dtype not in DTYPES or not isinstance(shape, list):
        raise _FaultError(f"tensor {str(entry)[:80]}")
    if len(shape) > MAX_DIMENSIONS or math.prod(_number(size, f"a size of {key}") for size in shape) > MAX_NUMEL:
        raise _FaultError(f"{key} has the shape {str(shape)[:80]}")
    return key, TensorEntry(DTYPES[dtype], tuple(shape), [])


def _file(name: str, file: Mapping[str, Any]) -> FileEntry:
    if not is_file_name(name):
        raise _FaultError(f"{name[:80]!r} is no name of a file of a checkpoint")
    if not isinstance(file["sha256"], str) or not _SHA256.fullmatch(file["sha256"]):
        raise _FaultError(f"the checksum of {name} is {str(file['sha256'])[:80]}")
    return FileEntry(_number(file["size_bytes"], f"the size of {name}"), file["sha256"])


def _add_fragments(name: str, size_bytes: int, fragments: Any, entries: Sequence[TensorEntry]) -> None:
    """Gives each tensor its fragments in this file, none of which may lie outside of it or on another."""
    spans = []
    for number, start, numel, offset in _kind(fragments, list, f"the list of {name}"):
        for value in (number, start, numel, offset):
            _number(value, f"a number of {name}")
        entry = entries[number]
        end = offset + numel * entry.dtype.itemsize
        if not numel or start + numel > entry.numel or offset < FIRST_OFFSET or end > size_bytes:
            raise _FaultError(f"fragment {[number, start, numel, offset]} does not fit {name} or its tensor")
        spans.append((offset, end))
        entry.fragments.append(Fragment(start, numel, name, offset))
    spans.sort()
    if any(first[1] > second[0] for first, second in pairwise(spans)):
        raise _FaultError(f"fragments of {name} overlap")
