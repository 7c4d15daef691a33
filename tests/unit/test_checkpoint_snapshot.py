"""A snapshot is what the pieces were, byte for byte, wherever they lay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gen_dist.checkpoint.layout import PAGE_BYTES
from gen_dist.checkpoint.piece import Piece
from gen_dist.checkpoint.snapshot import Live, Place, Snapshot, stretches


def partition() -> list[Piece]:
    """As they come in a run: of one flat partition and beside it, of several formats, not all of them contiguous."""
    flat = torch.randn(1000)
    other = torch.randn(2000).bfloat16()
    pieces = [Piece(f"weight/{n}", (100,), 0, flat[n * 100 : (n + 1) * 100]) for n in range(8)]
    pieces += [Piece("average/0", (50,), 0, flat[850:900]), Piece("average/1", (50,), 0, flat[900:950])]
    pieces += [Piece(f"buffer/{n}", (500,), 0, other[n * 500 : (n + 1) * 500]) for n in (1, 0, 2)]
    return [*pieces, Piece("buffer/t", (30, 20), 0, torch.randn(20, 30).t()), Piece("buffer/n", (), 0, torch.tensor(7))]


@pytest.mark.parametrize("max_file_bytes", [1 << 20, 1200])
def test_it_holds_what_the_pieces_held(max_file_bytes: int) -> None:
    pieces = partition()
    wanted = Live(
        [Piece(p.key, p.shape, p.start, p.values.clone()) for p in pieces], rank=0, max_file_bytes=max_file_bytes
    )
    snapshot = Snapshot(rank=0, max_file_bytes=max_file_bytes)
    for _ in range(2):  # the second one into the room of the first
        snapshot.take(pieces)
        for number in range(len(wanted.layout.files)):
            assert b"".join(snapshot.chunks(number)) == b"".join(wanted.chunks(number))
    for piece in pieces:
        piece.values.zero_()
    assert b"".join(snapshot.chunks(0)) == b"".join(wanted.chunks(0)), "no copy"


def test_neighbours_on_both_sides_are_copied_at_once() -> None:
    source, other, to = torch.arange(100.0), torch.arange(5.0), torch.zeros(100)
    cuts = [(0, 10), (10, 30), (40, 60), (60, 61), (61, 100)]
    places = [Place(0, 4 * a, 0, a, b - a) for a, b in cuts]
    found = list(stretches(places, [source]))
    assert [(offset, len(data)) for _, offset, data in found] == [(0, 120), (160, 240)]
    for _, offset, data in found:
        np.copyto(to.view(torch.uint8)[offset : offset + len(data)].numpy(), data.numpy())
    assert torch.equal(to[:30], source[:30])
    assert torch.equal(to[40:], source[40:])
    assert not to[30:40].any()
    for second in (Place(0, 20, 0, 6, 4), Place(0, 24, 0, 5, 4), Place(1, 20, 0, 5, 4), Place(0, 20, 1, 0, 4)):
        assert len(list(stretches([Place(0, 0, 0, 0, 5), second], [source, other]))) == 2, "on one side only"
    assert not list(stretches([], []))


def test_its_bytes_begin_at_pages_so_that_a_disk_can_fetch_them() -> None:
    snapshot = Snapshot(rank=0, max_file_bytes=9000)
    snapshot.take([Piece("weight/0", (5000,), 0, torch.randn(5000)), Piece("weight/1", (10,), 0, torch.randn(10))])
    assert len(snapshot.layout.files) == 3
    for number, file in enumerate(snapshot.layout.files):
        first = next(snapshot.chunks(number))
        assert np.frombuffer(first, np.uint8).ctypes.data % PAGE_BYTES == 0
        assert len(file.header) % PAGE_BYTES == 0
