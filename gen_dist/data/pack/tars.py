"""Pictures in WebDataset shards, in a folder or a bucket: what is packed again."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gen_dist.data.errors import DataError
from gen_dist.data.index import Index, find_index
from gen_dist.data.pack.listing import (
    BAD_TEXT,
    IMAGE_EXTENSIONS,
    NO_IMAGE,
    Entry,
    LeftOut,
    Listing,
    Raw,
    RejectedError,
    key_of,
    with_own_keys,
)
from gen_dist.store import Store

HEADER_BYTES = 512


@dataclass(frozen=True)
class TarPlace:
    """A sample's members in a shard: (extension, first byte, size in bytes) each."""

    shard: str
    version: str
    members: tuple[tuple[str, int, int], ...]
    crc32: tuple[int, ...] = ()
    """Of the members, to hold them against; empty where the shard is the one that was indexed."""

    def __repr__(self) -> str:
        """Without the version: a copy of the source has another one, and is the same source."""
        return f"{self.shard} {self.members}"


@dataclass(frozen=True)
class TarReader:
    """Reads samples in the order of the tar, one span of bytes each."""

    store: Store

    def read(self, entries: Sequence[Entry]) -> Iterator[Raw | RejectedError]:
        file, opened = None, ""
        try:
            for entry in entries:
                place: TarPlace = entry.place
                if file is None or opened != place.shard:
                    if file is not None:
                        file.close()
                    file, opened = self.store.open(place.shard, version=place.version), place.shard
                first = min(start for _, start, _ in place.members)
                end = max(start + size for _, start, size in place.members)
                file.seek(first)
                span = file.read(end - first)
                if len(span) < end - first:
                    remedy = "keep the source unchanged while it is packed"
                    raise DataError("the shard became shorter", shard=f"{self.store.url}/{place.shard}", remedy=remedy)
                members = {name: span[start - first : start - first + size] for name, start, size in place.members}
                if place.crc32 and tuple(map(zlib.crc32, members.values())) != place.crc32:
                    url = self.store.url
                    what, remedy = "other bytes than were indexed", f"run `gen-dist data index {url}` again"
                    raise DataError(what, shard=f"{url}/{place.shard}", key=entry.key, remedy=remedy)
                yield _raw(members)
        finally:
            if file is not None:
                file.close()


def list_tars(store: Store, pattern: str) -> Listing:
    """The samples of all shards that match. Raises: DataError, StoreError."""
    index = find_index(store, pattern)
    entries = []
    for sample_id in range(len(index)):
        sample = index.sample(sample_id)
        members = tuple((name, start, size) for name, (start, size) in sample.members.items())
        size_bytes = sum(size + HEADER_BYTES for _, _, size in members)
        place = TarPlace(sample.shard.name, sample.shard.version, members, _checksums(index, sample_id))
        entries.append(Entry(key_of(sample.key + "."), f"{sample.shard.name} {sample.key}", size_bytes, place))
    left_out = []
    for number, shard in enumerate(index.shards):
        if shard.num_left_out:
            left_out += [LeftOut(f"{shard.name} {left.key}", left.reason) for left in index.table(number).left_out]
    return Listing(
        about=f"{len(index.shards)} tar(s)",
        reader=TarReader(store),
        entries=with_own_keys(entries),
        has_captions=any(shard.num_by_extension.get("txt") for shard in index.shards),
        left_out=left_out,
    )


def _checksums(index: Index, sample_id: int) -> tuple[int, ...]:
    """Of a sample's members where its shard may be another than was indexed, see `Index.unproved`; else none."""
    number, row = index.locate(sample_id)
    if not index.unproved[number]:
        return ()
    table = index.table(number)
    return tuple(table.crc32[int(table.first_member[row]) : int(table.first_member[row + 1])].tolist())


def _raw(members: dict[str, bytes]) -> Raw | RejectedError:
    image = next((name for name in IMAGE_EXTENSIONS if name in members), "")
    if not image:
        return RejectedError(NO_IMAGE, f"it has {', '.join(f'.{name}' for name in members)}")
    data, text = members.pop(image), members.pop("txt", None)
    try:
        return Raw(data, None if text is None else text.decode(), None, members)
    except UnicodeDecodeError as error:
        return RejectedError(BAD_TEXT, f".txt is not UTF-8 ({error.reason} at byte {error.start})")
