"""What a batch is made of: which member of a sample a field takes, and the check that every sample has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gen_dist.data.augment import Crop
from gen_dist.data.decode import (
    DecodeError,
    decode_array_into,
    decode_arrays_into,
    decode_caption,
    decode_image_into,
    decode_images_into,
    decode_label,
)
from gen_dist.data.errors import DataError
from gen_dist.data.index import Index, Sample

if TYPE_CHECKING:
    from gen_dist.job.spec import DataSpec

KINDS = ("image", "caption", "label", "array")
DTYPES: dict[str, type] = {"image": np.uint8, "caption": object, "label": np.int64}
CAPTION_BYTES = 256  # what one caption is taken to cost in memory
RESERVED = ("sample_id", "weight", "bad")  # what the stream adds to every batch


Member = tuple[int, memoryview, str, Crop]
"""(row of the batch, bytes, key into its JSON or "", part that is shown)."""


class FieldLike(Protocol):
    """One key of a batch as a recipe asks for it."""

    @property
    def kind(self) -> str:
        """One of KINDS."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (3, H, W) for an image, any for an array, () for the others."""
        ...

    @property
    def member(self) -> str:
        """Of an array: the ending of its `.npy` member; the other kinds are named by data.image and so on."""
        ...

    @property
    def dtype(self) -> str:
        """Of an array: numpy's name of its type, such as float16."""
        ...


@dataclass(frozen=True)
class Source:
    """Where the value of one field comes from: the first of these members that a sample has."""

    name: str
    kind: str
    shape: tuple[int, ...]
    members: tuple[tuple[str, str], ...]  # (extension, key into its JSON or "")
    dtype: np.dtype
    row_shape: tuple[int, ...]
    """Of one row of a batch: an image's is (H, W, 3), as decoders write it."""
    fast_downscale: bool = False
    is_derived: bool = False
    """Read from the derived shards in place of the source's."""

    @property
    def extensions(self) -> tuple[str, ...]:
        return tuple(extension for extension, _ in self.members)

    @property
    def row_bytes(self) -> int:
        return CAPTION_BYTES if self.kind == "caption" else int(np.prod(self.row_shape)) * self.dtype.itemsize

    def empty(self, count: int) -> np.ndarray:
        """(count, *row_shape), not filled."""
        return np.empty((count, *self.row_shape), self.dtype)

    def decode_into(self, rows: np.ndarray, row: int, data: memoryview, key: str, crop: Crop) -> None:
        """Fill one row of a batch. Raises: DecodeError."""
        if self.kind == "image":
            decode_image_into(data, rows[row], crop=crop, fast_downscale=self.fast_downscale)
        elif self.kind == "array":
            decode_array_into(data, rows[row])
        else:
            rows[row] = decode_caption(data, key) if self.kind == "caption" else decode_label(data, key)

    def decode_all_into(self, rows: np.ndarray, members: Sequence[Member]) -> dict[int, DecodeError]:
        """Fill several rows, each as `decode_into`; the errors by row."""
        if self.kind == "image":
            pictures = [(row, data, crop) for row, data, _, crop in members]
            return decode_images_into(pictures, rows, fast_downscale=self.fast_downscale)
        if self.kind == "array":
            return decode_arrays_into([(row, data) for row, data, _, _ in members], rows)
        errors = {}
        for row, data, key, crop in members:
            try:
                self.decode_into(rows, row, data, key, crop)
            except DecodeError as error:
                errors[row] = error
        return errors

    def clear(self, rows: np.ndarray, row: int) -> None:
        """Fill one row with nothing: an image of grey, an empty caption, zeros."""
        rows[row] = {"image": 128, "caption": ""}.get(self.kind, 0)


def sources(fields: Mapping[str, FieldLike], spec: DataSpec) -> list[Source]:
    """The sources of a recipe's fields. Raises: DataError for a kind, name or shape that no stream gives."""
    return [_source(name, field, spec) for name, field in fields.items()]


def _source(name: str, field: FieldLike, spec: DataSpec) -> Source:
    if field.kind not in KINDS:
        raise DataError(f"batch field {name!r}: unknown kind {field.kind!r}", remedy=f"use one of {', '.join(KINDS)}")
    if name in RESERVED:
        raise DataError(f"batch field {name!r}: the stream's own", remedy="give the field another name")
    shape = tuple(field.shape)
    if field.kind == "image" and (len(shape) != 3 or shape[0] != 3 or min(shape) < 1):
        raise DataError(f"batch field {name!r}: image shape {shape}", remedy="images are (3, height, width)")
    if field.kind in ("caption", "label") and shape:
        raise DataError(f"batch field {name!r}: {field.kind} shape {shape}", remedy=f"a {field.kind} has shape ()")
    if field.kind == "array":
        pairs, dtype = [(field.member, "", "")], np.dtype(field.dtype)
    else:
        written: str = {"image": spec.image, "caption": spec.caption, "label": spec.label}[field.kind]
        pairs = [word.partition(":") for word in written.split()]
        dtype = np.dtype(DTYPES[field.kind])
    members = tuple((extension.lower().lstrip("."), key) for extension, _, key in pairs)
    if not all(extension for extension, _ in members) or not members:
        raise DataError(f"batch field {name!r} names no member", remedy=f"name one, such as data.{field.kind}")
    row_shape = (*shape[1:], 3) if field.kind == "image" else shape
    return Source(name, field.kind, shape, members, dtype, row_shape, spec.fast_downscale)


def check_fields(index: Index, fields: Mapping[str, FieldLike], spec: DataSpec) -> None:
    """That every sample has a member for every field; costs no read. Raises: DataError naming the first without."""
    for source in placed(sources(fields, spec), index):
        sample_id = None if source.is_derived else index.first_without(source.extensions)
        if sample_id is not None:
            raise missing(source, index.sample(sample_id))


def placed(sources: Sequence[Source], index: Index) -> list[Source]:
    """Each from the derived shards where all samples have it there, else from the source's."""
    derived = index.derived
    if derived is None:
        return list(sources)
    return [replace(source, is_derived=derived.first_without(source.extensions) is None) for source in sources]


def missing(source: Source, sample: Sample) -> DataError:
    wanted = " or ".join(f".{extension}" for extension in source.extensions)
    has = ", ".join(f".{extension}" for extension in sample.members)
    return DataError(
        f"no member {wanted} for the batch field {source.name!r} (it has {has})",
        shard=sample.shard.name,
        key=sample.key,
        remedy="compute it with `gen-dist data derive`, and name the result in data.derived"
        if source.kind == "array"
        else f"set data.{source.kind} to a member that every sample has",
    )
