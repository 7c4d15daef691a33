"""ShardTable: where the samples of one shard are. On disk it is the sidecar NAME.tar.gdx, a safetensors file.

Shapes: n samples, m members of all samples in the order of the tar.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from gen_dist.data.errors import DataError

SUFFIX = ".gdx"
FORMAT = "gen-dist shard table 1"
AGAIN = "run `gen-dist data index` again"


@dataclass(frozen=True)
class LeftOut:
    """A sample that is in the tar and not in the table."""

    key: str
    reason: str


@dataclass(frozen=True)
class ShardTable:
    """Arrays, so that a million samples stay small and a block of them is a slice."""

    extensions: list[str]
    """Lower case; `extension_of` numbers them."""
    key_bytes: np.ndarray
    """uint8: all keys in UTF-8, one behind the other."""
    key_end: np.ndarray
    """(n,) int64: where in `key_bytes` each key ends."""
    first_member: np.ndarray
    """(n + 1,) int64: sample i has the members [first_member[i], first_member[i + 1])."""
    extension_of: np.ndarray
    """(m,) int16."""
    offset_bytes: np.ndarray
    """(m,) int64, of the member's first byte in the shard; they rise."""
    size_bytes: np.ndarray
    """(m,) int64."""
    crc32: np.ndarray
    """(m,) uint32, or (0,) where the index was made from headers alone."""
    width_px: np.ndarray
    """(n,) int32 of the sample's image; 0 where nobody looked."""
    height_px: np.ndarray
    """(n,) int32."""
    left_out: list[LeftOut] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.key_end)

    def key(self, row: int) -> str:
        first = int(self.key_end[row - 1]) if row else 0
        return self.key_bytes[first : int(self.key_end[row])].tobytes().decode("utf-8", "surrogateescape")

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """By extension: (first byte in the shard, size in bytes)."""
        numbers = range(int(self.first_member[row]), int(self.first_member[row + 1]))
        return {
            self.extensions[int(self.extension_of[m])]: (int(self.offset_bytes[m]), int(self.size_bytes[m]))
            for m in numbers
        }

    def num_by_extension(self) -> dict[str, int]:
        counts = np.bincount(self.extension_of, minlength=len(self.extensions))
        return dict(zip(self.extensions, counts.tolist(), strict=True))

    @property
    def first_bytes(self) -> np.ndarray:
        """(n,) int64: the first byte of each sample's first member."""
        return self.offset_bytes[self.first_member[:-1]]

    @property
    def end_bytes(self) -> np.ndarray:
        """(n,) int64: the byte after each sample's last member."""
        last = self.first_member[1:] - 1
        return self.offset_bytes[last] + self.size_bytes[last]

    @cached_property
    def digest(self) -> str:
        """sha256 of names, members, offsets and sizes: equal for equal shards, however closely they were looked at."""
        sha = hashlib.sha256("\0".join(self.extensions).encode("utf-8", "surrogatepass"))
        for array in (self.key_bytes, self.key_end, self.first_member, self.extension_of, self.offset_bytes):
            sha.update(np.ascontiguousarray(array).tobytes())
        sha.update(np.ascontiguousarray(self.size_bytes).tobytes())
        return sha.hexdigest()

    def to_bytes(self, shard: Mapping[str, str | int]) -> bytes:
        """The sidecar; `shard` says whose it is (name, size_bytes, version)."""
        about = {
            "format": FORMAT,
            "shard": json.dumps(dict(shard)),
            "extensions": json.dumps(self.extensions),
        }
        left_out = json_array([[left.key, left.reason] for left in self.left_out])
        return write_arrays({**{name: getattr(self, name) for name in DTYPES}, "left_out": left_out}, about)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> ShardTable:
        """Raises: DataError for anything that no `to_bytes` wrote."""
        return cls._read(data, where=where)[0]

    @classmethod
    def with_shard(cls, data: bytes, *, where: str) -> tuple[ShardTable, dict[str, str | int]]:
        """The table and what was written beside it of the shard. Raises: DataError, as `from_bytes`."""
        table, about = cls._read(data, where=where)
        try:
            return table, dict(json.loads(about["shard"]))
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"no table of a shard ({error})", shard=where, remedy=AGAIN) from error

    @classmethod
    def _read(cls, data: bytes, *, where: str) -> tuple[ShardTable, dict[str, str]]:
        arrays, about = read_arrays(data, where=where, form=FORMAT)
        try:
            texts = json.loads(about["extensions"])
            left_out = [LeftOut(str(key), str(reason)) for key, reason in json_of("left_out", arrays, about)]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("extensions")
            table = cls(extensions=list(texts), left_out=left_out, **{name: arrays[name] for name in DTYPES})
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"no table of a shard ({error})", shard=where, remedy=AGAIN) from error
        fault = table._fault()
        if fault:
            raise DataError(f"a damaged table: {fault}", shard=where, remedy=AGAIN)
        return table, about

    def _fault(self) -> str:
        """What contradicts itself, or nothing."""
        n, m = len(self.key_end), len(self.offset_bytes)
        for name, dtype in DTYPES.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1:
                return f"{name} is {array.dtype} with {array.ndim} dimensions"
        shapes = {"first_member": n + 1, "extension_of": m, "size_bytes": m, "width_px": n, "height_px": n}
        for name, length in shapes.items():
            if len(getattr(self, name)) != length:
                return f"{name} has {len(getattr(self, name))} entries in place of {length}"
        if len(self.crc32) not in (0, m):
            return "crc32 has another length than the members"
        bounds = self.first_member
        if bounds[0] != 0 or bounds[-1] != m or (np.diff(bounds) < 1).any():
            return "the samples do not share out the members"
        if m and (self.extension_of.min() < 0 or self.extension_of.max() >= len(self.extensions)):
            return "a member has an unknown extension"
        if m and (self.size_bytes.min() < 0 or self.offset_bytes.min() < 0 or (np.diff(self.offset_bytes) < 0).any()):
            return "offsets do not rise"
        if m and int(self.offset_bytes[-1]) + int(self.size_bytes.max()) >= 2**62:
            return "an offset is out of range"
        if n and (self.key_end[0] < 0 or (np.diff(self.key_end) < 0).any() or self.key_end[-1] > len(self.key_bytes)):
            return "keys end outside of their text"
        if n and self.key_end[-1] != len(self.key_bytes):
            return "text behind the last key"
        return ""


DTYPES: dict[str, type] = {
    "key_bytes": np.uint8,
    "key_end": np.int64,
    "first_member": np.int64,
    "extension_of": np.int16,
    "offset_bytes": np.int64,
    "size_bytes": np.int64,
    "crc32": np.uint32,
    "width_px": np.int32,
    "height_px": np.int32,
}
assert set(DTYPES) == {entry.name for entry in fields(ShardTable)} - {"extensions", "left_out"}

_NUMPY = {"U8": np.uint8, "I64": np.int64, "I16": np.int16, "I32": np.int32, "U32": np.uint32}


def json_array(value: object) -> np.ndarray:
    """(bytes,) uint8: JSON of any length, which the header of a safetensors file has no room for."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def json_of(name: str, arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> Any:
    """What `json_array` made, or an older program put into the header. Raises: KeyError, ValueError."""
    return json.loads(about[name] if name in about else arrays[name].tobytes().decode())


def write_arrays(arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> bytes:
    """A safetensors file that is the same for the same content: the library orders its header by chance."""
    data = bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=dict(about)))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def read_arrays(data: bytes, *, where: str, form: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and texts of a safetensors file of ours, without a copy beyond `data`'s own. Raises: DataError."""
    try:
        tensors = deserialize(bytes(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = header.get("__metadata__") or {}
        if about.get("format") != form:
            raise DataError(f"written as {about.get('format')!r}, and this reads {form!r}", shard=where, remedy=AGAIN)
        arrays = {
            name: np.frombuffer(entry["data"], _NUMPY[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in tensors
        }
    except (SafetensorError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"unreadable ({' '.join(str(error).split())})", shard=where, remedy=AGAIN) from error
    return arrays, about
