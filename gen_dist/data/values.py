"""What is wrong with the captions, labels and arrays of stored samples, found by decoding them as a run would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gen_dist.data.augment import CENTRE
from gen_dist.data.decode import DecodeError
from gen_dist.data.fields import Source

MOST_LINES = 10


@dataclass
class Values:
    """Call it with each sample that is read: it counts by what is wrong."""

    sources: Sequence[Source]
    remedy: str
    found: dict[str, tuple[int, str]] = field(default_factory=dict)
    """What is wrong -> (how often, where it was seen first)."""

    def __call__(self, where: str, members: Mapping[str, bytes]) -> None:
        """`members` by extension. Images were looked at by indexing, and who is missing is known without reading."""
        for source in self.sources:
            here = [(extension, key) for extension, key in source.members if extension in members]
            if source.kind == "image" or not here:
                continue
            extension, key = here[0]
            fault = _fault(source, extension, key, members[extension])
            if fault:
                count, first = self.found.get(fault, (0, where))
                self.found[fault] = (count + 1, first)

    def lines(self) -> list[str]:
        """One a fault, the commonest first."""
        most = sorted(self.found.items(), key=lambda item: -item[1][0])[:MOST_LINES]
        return [f"{first}: {fault}, {count:,} times in what was read; {self.remedy}" for fault, (count, first) in most]


def _fault(source: Source, extension: str, key: str, data: bytes) -> str:
    row = source.empty(1)
    try:
        source.decode_into(row, 0, memoryview(data), key, CENTRE)
    except DecodeError as error:
        return f".{extension}: {error}" if source.kind == "array" else str(error)
    return "an empty caption" if source.kind == "caption" and row[0] == "" else ""
