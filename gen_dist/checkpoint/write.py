"""A worker's half of a save: its files, hashed while they are written, and then the word that they are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from gen_dist.checkpoint.layout import FilePlan
from gen_dist.checkpoint.manifest import Part, malformed, parse_json
from gen_dist.checkpoint.names import Name
from gen_dist.checkpoint.snapshot import Source
from gen_dist.store import Store


class FileWriter:
    """Writes the files of one save; what is written stays written when a later one fails and all is tried again."""

    def __init__(self, store: Store, name: Name, source: Source) -> None:
        self._store, self._name, self._source = store, name, source
        self._sha256: dict[str, str] = {}

    def write(self, at: Callable[[str], object]) -> Part:
        """What the files hold. Raises: StoreError; then call it again."""
        for number, file in enumerate(self._source.layout.files):
            if file.name not in self._sha256:
                at("file")
                self._sha256[file.name] = self._write(file, number)
        return self._source.layout.part(self._sha256)

    def _write(self, file: FilePlan, number: int) -> str:
        digest = hashlib.sha256()

        def pieces() -> Iterator[memoryview]:
            for piece in chain([memoryview(file.header)], self._source.chunks(number)):
                digest.update(piece)
                yield piece

        self._store.write_stream(self._name.file(file.name), pieces(), size_bytes=file.size_bytes)
        return digest.hexdigest()


@dataclass(frozen=True)
class Done:
    """What one worker says of its save to the one that commits."""

    rank: int
    save: int
    """Number of the save within the attempt: tells an earlier try at the same checkpoint apart."""
    part: Part
    error: str = ""
    """Why the files are not there, where they are not."""

    def to_bytes(self) -> bytes:
        document: dict[str, Any] = {"rank": self.rank, "save": self.save, "error": self.error, **self.part.to_json()}
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Done:
        """Raises: CheckpointError for what `to_bytes` would not have written."""
        document = parse_json(data, where=where)
        rank, save, error = (document.get(name) for name in ("rank", "save", "error"))
        if not isinstance(rank, int) or not isinstance(save, int) or not isinstance(error, str):
            raise malformed(where, "no rank, save and error")
        return cls(rank, save, Part.from_json(document, where=where), error)
