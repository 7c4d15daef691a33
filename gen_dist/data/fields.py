"""What a batch is made of: which member of a sample a field takes, and the check that every sample has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gen_dist.data.decode import decode_caption, decode_image, decode_label
from gen_dist.data.errors import DataError
from gen_dist.data.index import Index, Sample

if TYPE_CHECKING:
    from gen_dist.job.spec import DataSpec

KINDS = ("image", "caption", "label")
DTYPES: dict[str, type] = {"image": np.uint8, "caption": object, "label": np.int64}


class FieldLike(Protocol):
    """One key of a batch as a recipe asks for it."""

    @property
    def kind(self) -> str:
        """One of KINDS."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample: (3, H, W) for an image, () for the others."""
        ...


@dataclass(frozen=True)
class Source:
    """Where the value of one field comes from: the first of these members that a sample has."""

    name: str
    kind: str
    shape: tuple[int, ...]
    members: tuple[tuple[str, str], ...]  # (extension, key into its JSON or "")

    @property
    def extensions(self) -> tuple[str, ...]:
        return tuple(extension for extension, _ in self.members)

    def member(self, sample: Sample) -> tuple[str, str]:
        """The (extension, key) that this sample has."""
        for extension, key in self.members:
            if extension in sample.members:
                return extension, key
        raise missing(self, sample)

    def decode(self, data: bytes, key: str) -> np.ndarray | str | int:
        """Raises: DecodeError."""
        if self.kind == "image":
            return decode_image(data, height_px=self.shape[1], width_px=self.shape[2])
        return decode_caption(data, key) if self.kind == "caption" else decode_label(data, key)


def sources(fields: Mapping[str, FieldLike], spec: DataSpec) -> list[Source]:
    """The sources of a recipe's fields. Raises: DataError for a kind or a shape that no stream gives."""
    found = []
    for name, field in fields.items():
        if field.kind not in KINDS:
            raise DataError(
                f"batch field {name!r}: unknown kind {field.kind!r}", remedy=f"use one of {', '.join(KINDS)}"
            )
        shape = tuple(field.shape)
        if field.kind == "image" and (len(shape) != 3 or shape[0] != 3 or min(shape) < 1):
            raise DataError(f"batch field {name!r}: image shape {shape}", remedy="images are (3, height, width)")
        if field.kind != "image" and shape:
            raise DataError(f"batch field {name!r}: {field.kind} shape {shape}", remedy=f"a {field.kind} has shape ()")
        written: str = {"image": spec.image, "caption": spec.caption, "label": spec.label}[field.kind]
        pairs = [word.partition(":") for word in written.split()]
        if not pairs:
            raise DataError(f"data.{field.kind} is empty, and the recipe's {name!r} needs it", remedy="name a member")
        members = tuple((extension.lower().lstrip("."), key) for extension, _, key in pairs)
        found.append(Source(name, field.kind, shape, members))
    return found


def check_fields(index: Index, fields: Mapping[str, FieldLike], spec: DataSpec) -> None:
    """That every sample has a member for every field; costs no read. Raises: DataError naming the first without."""
    for source in sources(fields, spec):
        sample_id = index.first_without(source.extensions)
        if sample_id is not None:
            raise missing(source, index.sample(sample_id))


def missing(source: Source, sample: Sample) -> DataError:
    wanted = " or ".join(f".{extension}" for extension in source.extensions)
    has = ", ".join(f".{extension}" for extension in sample.members)
    return DataError(
        f"no member {wanted} for the batch field {source.name!r} (it has {has})",
        shard=sample.shard.name,
        key=sample.key,
        remedy=f"set data.{source.kind} to a member that every sample has",
    )
