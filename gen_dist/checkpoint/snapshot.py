"""Snapshot: a worker's pieces copied to host memory, the only part of a save that training waits for.

The buffers are kept from one save to the next: touching fresh memory costs more than the copy itself. Where there is no
room for them, `Live` reads the pieces where they are, while training waits for the whole save.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.layout import MAX_FILE_BYTES, Layout, chunks, plan
from gen_dist.checkpoint.piece import DTYPE_NAMES, Piece

CHUNK_BYTES = 4 << 20  # small enough to be hashed and written while it is in the cache


class Source(Protocol):
    """Where the bytes of a save come from."""

    @property
    def layout(self) -> Layout: ...

    def chunks(self, number: int) -> Iterator[memoryview]:
        """The fragments of a file, all their bytes in order."""
        ...


class Snapshot:
    """Room for one worker's pieces, in the order of its files."""

    def __init__(self, *, rank: int, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._rank, self._max_file_bytes = rank, max_file_bytes
        self._layout: Layout | None = None
        self._buffers: list[Tensor] = []
        self._views: list[tuple[Tensor, int, int, int]] = []  # where to, piece, first element, number of elements

    def _reserve(self, pieces: Sequence[Piece]) -> None:
        """Makes room, unless what was taken before has the same shapes."""
        specs = tuple(piece.spec for piece in pieces)
        if self._layout is not None and self._layout.specs == specs:
            return
        for piece in pieces:
            _check(piece)
        layout = plan(specs, rank=self._rank, max_file_bytes=self._max_file_bytes)
        pinned = any(piece.values.is_cuda for piece in pieces)
        sizes = [file.data_bytes for file in layout.files]
        if sizes != [len(buffer) for buffer in self._buffers]:
            self._layout, self._buffers, self._views = None, [], []  # first, or old and new would be held at once
            try:
                self._buffers = [torch.zeros(size, dtype=torch.uint8, pin_memory=pinned) for size in sizes]
            except RuntimeError as error:  # torch has no kind of its own for this
                raise MemoryError(f"{sum(sizes)} bytes of host memory for a snapshot: {error}") from error
        self._views = []
        for file, buffer in zip(layout.files, self._buffers, strict=True):
            for slot in file.slots:
                dtype = specs[slot.piece].dtype
                view = buffer[slot.offset : slot.offset + slot.numel * dtype.itemsize].view(dtype)
                self._views.append((view, slot.piece, slot.first, slot.numel))
        self._layout = layout

    def take(self, pieces: Sequence[Piece]) -> None:
        """Copies the pieces as they are now. What was taken before is overwritten.

        Raises: MemoryError where there is no room for them.
        """
        self._reserve(pieces)
        with torch.no_grad():
            flat = [piece.values.detach().reshape(-1) for piece in pieces]
            parts = [(view, flat[piece][first : first + numel]) for view, piece, first, numel in self._views]
            for view, values in parts:
                if values.is_cuda:
                    view.copy_(values, non_blocking=True)
            for to, source in stretches([(view, values) for view, values in parts if not values.is_cuda]):
                np.copyto(to.numpy(), source.numpy())
            for device in {values.device for values in flat if values.is_cuda}:
                torch.cuda.synchronize(device)

    @property
    def layout(self) -> Layout:
        """Of what was taken."""
        assert self._layout is not None, "nothing was taken yet"
        return self._layout

    def chunks(self, number: int) -> Iterator[memoryview]:
        return chunks(self._buffers[number].numpy().data, CHUNK_BYTES)


class Live:
    """The pieces themselves, which must not change until all their bytes were asked for."""

    def __init__(self, pieces: Sequence[Piece], *, rank: int, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._flat = [piece.values.detach().reshape(-1) for piece in pieces]
        specs = [piece.spec for piece in pieces]
        self.layout = plan(specs, rank=rank, max_file_bytes=max_file_bytes)

    def chunks(self, number: int) -> Iterator[memoryview]:
        for slot in self.layout.files[number].slots:
            values = self._flat[slot.piece][slot.first : slot.first + slot.numel]
            for part in values.split(CHUNK_BYTES // values.dtype.itemsize):
                yield part.cpu().view(torch.uint8).numpy().data


def stretches(pairs: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """(to, from), contiguous and of one dtype each, as bytes; neighbours that are so on both sides are one.

    Partitions of ZeRO lie in one piece of memory, by parameter. Copied in one go, they go past the processor's caches,
    which takes half to two thirds of the time.
    """
    run: list[Tensor] = []
    num_bytes = 0
    for pair in pairs:
        if run and all(_follows(new, old, num_bytes) for new, old in zip(pair, run, strict=True)):
            num_bytes += pair[0].nbytes
            continue
        if run:
            yield _bytes(run[0], num_bytes), _bytes(run[1], num_bytes)
        run, num_bytes = list(pair), pair[0].nbytes
    if run:
        yield _bytes(run[0], num_bytes), _bytes(run[1], num_bytes)


def _follows(values: Tensor, first: Tensor, num_bytes: int) -> bool:
    """Whether they begin that far behind the first, in the same memory."""
    same = values.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
    return same and values.data_ptr() == first.data_ptr() + num_bytes


def _bytes(values: Tensor, num_bytes: int) -> Tensor:
    """The memory from their first byte on."""
    begin = values.storage_offset() * values.itemsize
    return torch.empty(0, dtype=torch.uint8).set_(values.untyped_storage(), begin, (num_bytes,), (1,))


def _check(piece: Piece) -> None:
    numel = torch.Size(piece.shape).numel()
    if piece.values.dtype not in DTYPE_NAMES:
        known = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in DTYPE_NAMES))
        raise CheckpointError(f"{piece.key}: {piece.values.dtype} has no name in safetensors; give one of {known}")
    if not piece.key or piece.start < 0 or piece.start + piece.values.numel() > numel:
        raise CheckpointError(
            f"{piece.key or 'a piece without a key'}: elements {piece.start} to {piece.start + piece.values.numel()} of"
            f" a tensor of {numel}; give parts of the tensor and no padding"
        )
