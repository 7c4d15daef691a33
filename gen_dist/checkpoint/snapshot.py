"""Snapshot: a worker's pieces copied to host memory, the only part of a save that training waits for.

`take` copies at once what the next forward may change. Weights and moments last until the next step of their
optimizer: `finish` copies those, in another thread, beside that step's forward and backward (as DataStates-LLM does,
Maurya et al. 2024, "lazy asynchronous" checkpoints). On a GPU that is a stream of its own into pinned memory.

The buffers are kept from one save to the next: touching fresh memory costs more than the copy itself. Where there is no
room for them, `Live` reads the pieces where they are, while training waits for the whole save.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.layout import MAX_FILE_BYTES, Layout, chunks, plan
from gen_dist.checkpoint.piece import DTYPE_NAMES, Piece
from gen_dist.checkpoint.room import take_room

CHUNK_BYTES = 4 << 20  # small enough to be hashed and written while it is in the cache


class Source(Protocol):
    """Where the bytes of a save come from."""

    @property
    def layout(self) -> Layout: ...

    def finish(self) -> None:
        """Copy what lasts; before it there are no bytes, after it the pieces may change."""
        ...

    def chunks(self, number: int) -> Iterator[memoryview]:
        """The fragments of a file, all their bytes in order."""
        ...


class Place(NamedTuple):
    """Where a part of a piece is copied to."""

    buffer: int
    offset: int
    """In bytes."""
    piece: int
    first: int
    """Of the piece, in elements."""
    numel: int


class Snapshot:
    """Room for one worker's pieces, in the order of its files."""

    def __init__(self, *, rank: int, max_file_bytes: int = MAX_FILE_BYTES) -> None:
        self._rank, self._max_file_bytes = rank, max_file_bytes
        self._layout: Layout | None = None
        self._buffers: list[Tensor] = []
        self._places: list[Place] = []
        self._sources: list[Tensor] = []
        self._lasting: list[Place] = []

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
            self._layout, self._buffers, self._places = None, [], []  # first, or old and new would be held at once
            self._buffers = [take_room(size, pinned=pinned) for size in sizes]
        self._places = [
            Place(number, slot.offset, slot.piece, slot.first, slot.numel)
            for number, file in enumerate(layout.files)
            for slot in file.slots
        ]
        self._layout = layout

    def take(self, pieces: Sequence[Piece]) -> None:
        """Copies the pieces as they are now, but for those that last. What was taken before is overwritten.

        Raises: MemoryError where there is no room for them.
        """
        self._reserve(pieces)
        self._sources = [_contiguous(piece.values.detach()) for piece in pieces]
        self._lasting = [place for place in self._places if pieces[place.piece].lasting]
        self._copy([place for place in self._places if not pieces[place.piece].lasting])
        for device in self._devices():
            torch.cuda.synchronize(device)  # also: what lasts is as it will be, for another stream too

    def finish(self) -> None:
        """Copies what lasts. From any thread, once."""
        with ExitStack() as stack:
            streams = [torch.cuda.Stream(device) for device in self._devices()]
            for stream in streams:
                stack.enter_context(torch.cuda.device(stream.device))  # else the thread comes back to GPU 0, and stays
                stack.enter_context(torch.cuda.stream(stream))
            self._copy(self._lasting)
            for stream in streams:
                stream.synchronize()
        self._sources, self._lasting = [], []

    def _devices(self) -> set[torch.device]:
        return {source.device for source in self._sources if source.is_cuda}

    @torch.no_grad()
    def _copy(self, places: Sequence[Place]) -> None:
        """On a GPU it is begun, on its current stream."""
        for place in places:
            if (source := self._sources[place.piece]).is_cuda:
                part = source.view(-1)[place.first : place.first + place.numel]
                room = self._buffers[place.buffer][place.offset : place.offset + part.nbytes]
                room.view(part.dtype).copy_(part, non_blocking=True)
        here = [place for place in places if not self._sources[place.piece].is_cuda]
        for buffer, offset, data in stretches(here, self._sources):
            np.copyto(self._buffers[buffer].numpy()[offset : offset + len(data)], data.numpy())

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
        self._values = [piece.values.detach() for piece in pieces]
        specs = [piece.spec for piece in pieces]
        self.layout = plan(specs, rank=rank, max_file_bytes=max_file_bytes)

    def finish(self) -> None:
        """There is no copy."""

    def chunks(self, number: int) -> Iterator[memoryview]:
        for slot in self.layout.files[number].slots:
            values = self._values[slot.piece].reshape(-1)[slot.first : slot.first + slot.numel]  # copies what has gaps
            for part in values.split(CHUNK_BYTES // values.dtype.itemsize):
                yield part.cpu().view(torch.uint8).numpy().data


def stretches(places: Iterable[Place], sources: Sequence[Tensor]) -> Iterator[tuple[int, int, Tensor]]:
    """(buffer, offset, bytes to copy there); places that are neighbours there and in memory are one.

    Partitions of ZeRO lie in one piece of memory, by parameter. Copied in one go, they go past the processor's caches,
    which takes half to two thirds of the time.
    """
    buffer = to = num_bytes = begin = storage = first = -1
    run: Tensor | None = None
    for place in places:
        source = sources[place.piece]
        here, there = source.data_ptr() + place.first * source.itemsize, source.untyped_storage().data_ptr()
        if (place.buffer, place.offset, here, there) == (buffer, to + num_bytes, begin + num_bytes, storage):
            num_bytes += place.numel * source.itemsize
            continue
        if run is not None:
            yield buffer, to, _bytes(run, first, num_bytes)
        buffer, to, begin, storage = place.buffer, place.offset, here, there
        run, first, num_bytes = source, here - there, place.numel * source.itemsize
    if run is not None:
        yield buffer, to, _bytes(run, first, num_bytes)


def _bytes(values: Tensor, first: int, num_bytes: int) -> Tensor:
    """A stretch of the memory that they lie in."""
    return torch.empty(0, dtype=torch.uint8).set_(values.untyped_storage(), first, (num_bytes,), (1,))


def _contiguous(values: Tensor) -> Tensor:
    try:
        return values.contiguous()
    except RuntimeError as error:  # torch has no kind of its own for a lack of memory
        raise MemoryError(f"{values.nbytes} bytes to bring a tensor in order: {error}") from error


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
