"""From a job's data section to a checked stream: what a worker calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gen_dist.data.fields import FieldLike, check_fields
from gen_dist.data.index import Index, find_index
from gen_dist.data.stream import Stream
from gen_dist.store import open_store

if TYPE_CHECKING:
    from gen_dist.job.spec import DataSpec


def open_index(spec: DataSpec, *, pattern: str) -> Index:
    """The index of `pattern` (data.train or data.heldout). It pickles: build it once and hand it to every worker."""
    return find_index(open_store(spec.url, spec.s3), pattern)


def open_stream(
    spec: DataSpec, *, pattern: str, fields: Mapping[str, FieldLike], seed: int, index: Index | None = None
) -> Stream:
    """A stream whose fields were found in every sample and decoded from the first one.

    Raises: DataError, StoreError.
    """
    store = open_store(spec.url, spec.s3)
    stream = Stream(
        store, index if index is not None else find_index(store, pattern), fields=fields, spec=spec, seed=seed
    )
    try:
        stream.batch(0, 1)
    except BaseException:
        stream.close()
        raise
    return stream


def check_data(spec: DataSpec, *, fields: Mapping[str, FieldLike]) -> Index:
    """The index of data.train, after checking that the samples of data.train and data.heldout have all fields."""
    index = open_index(spec, pattern=spec.train)
    check_fields(index, fields, spec)
    if spec.heldout:
        check_fields(open_index(spec, pattern=spec.heldout), fields, spec)
    return index


def data_digest(spec: DataSpec) -> str:
    """The digest of data.train: equal for equal shards wherever they are."""
    return open_index(spec, pattern=spec.train).digest
