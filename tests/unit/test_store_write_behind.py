"""A file written while its pieces are made is those pieces, whether the disk fetches them or the kernel copies."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
from pathlib import Path

import pytest

from gen_dist.store.write_behind import BLOCK_BYTES, write_behind

pwrite = os.pwrite
PIECE_BYTES = 64 * BLOCK_BYTES


def pages(size_bytes: int) -> memoryview:
    """Bytes that begin at a page of memory."""
    room = mmap.mmap(-1, size_bytes)
    room.write(random.Random(size_bytes).randbytes(size_bytes))
    return memoryview(room)


def is_direct(handle: int) -> bool:
    return bool(fcntl.fcntl(handle, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))


@pytest.fixture
def direct_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each write past the cache."""
    seen: list[int] = []

    def counting(handle: int, data: memoryview, at: int) -> int:
        done = pwrite(handle, data, at)
        if is_direct(handle):
            seen.append(done)
        return done

    monkeypatch.setattr(os, "pwrite", counting)
    return seen


def needs_a_disk(folder: Path) -> None:
    if not os.major(folder.stat().st_dev):
        pytest.skip(f"{folder} is on no disk of this machine, where nothing is written past the cache")


def test_what_lies_at_whole_pages_goes_past_the_cache_and_the_rest_through_it(
    tmp_path: Path, direct_bytes: list[int]
) -> None:
    needs_a_disk(tmp_path)
    data = pages(5 * PIECE_BYTES + 100)
    pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
    assert write_behind(tmp_path / "x", pieces) == len(data)
    assert (tmp_path / "x").read_bytes() == data
    assert sum(direct_bytes) == 5 * PIECE_BYTES
    header = memoryview(bytes(BLOCK_BYTES + 8))  # nothing behind it begins at a whole block
    direct_bytes.clear()
    write_behind(tmp_path / "y", [header, *pieces])
    assert (tmp_path / "y").read_bytes() == bytes(header) + bytes(data)
    assert sum(direct_bytes) <= BLOCK_BYTES


@pytest.mark.parametrize("seed", range(20))
def test_pieces_of_any_size_from_anywhere_are_the_file(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    data = pages(200 * BLOCK_BYTES)
    pieces = []
    for _ in range(draw.randrange(12)):
        unit = draw.choice([1, BLOCK_BYTES, BLOCK_BYTES])
        start, size = draw.randrange(100 * BLOCK_BYTES) // unit * unit, draw.randrange(50 * BLOCK_BYTES) // unit * unit
        pieces.append(data[start : start + size])
    assert write_behind(tmp_path / "x", pieces) == sum(map(len, pieces))
    assert (tmp_path / "x").read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_kernel_that_cannot_fetch_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refusing(handle: int, data: memoryview, at: int) -> int:
        if is_direct(handle):
            raise OSError(number, os.strerror(number))
        return pwrite(handle, data, at)

    monkeypatch.setattr(os, "pwrite", refusing)
    data = pages(3 * PIECE_BYTES)
    assert write_behind(tmp_path / "x", [data[:PIECE_BYTES], data[PIECE_BYTES:]]) == len(data)
    assert (tmp_path / "x").read_bytes() == data


def test_a_folder_that_knows_no_such_writes_gets_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refusing(path: Path, flags: int, *more: int) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", refusing)
    data = pages(PIECE_BYTES)
    assert write_behind(tmp_path / "x", [data]) == len(data)
    assert (tmp_path / "x").read_bytes() == data


def test_writes_that_end_early_go_on_where_they_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)

    def short(handle: int, data: memoryview, at: int) -> int:
        return pwrite(handle, data[: max(BLOCK_BYTES, draw.randrange(len(data) + 1))], at)

    monkeypatch.setattr(os, "pwrite", short)
    data = pages(5 * PIECE_BYTES + 7)
    assert write_behind(tmp_path / "x", [data]) == len(data)
    assert (tmp_path / "x").read_bytes() == data


@pytest.mark.parametrize("past_the_cache", [True, False])
def test_a_disk_that_is_full_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, past_the_cache: bool) -> None:
    if past_the_cache:
        needs_a_disk(tmp_path)

    def full(handle: int, data: memoryview, at: int) -> int:
        if is_direct(handle) == past_the_cache and at >= PIECE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if past_the_cache or not is_direct(handle):
            return pwrite(handle, data, at)
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "pwrite", full)
    data = pages(4 * PIECE_BYTES)
    with pytest.raises(OSError, match="No space left"):
        write_behind(tmp_path / "x", [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)])
