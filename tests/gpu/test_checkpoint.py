"""A snapshot of tensors on a GPU is of one moment, although copies run beside the kernels that come after it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gen_dist.checkpoint import Piece, Saver
from gen_dist.store.local import LocalStore
from tests.support.saves import newest

NUMEL = 8_000_000


@pytest.mark.gpu
@pytest.mark.parametrize("lasting", [False, True])
def test_training_on_the_gpu_may_go_on_at_once(tmp_path: Path, lasting: bool) -> None:
    store = LocalStore(tmp_path)
    saver = Saver(store, attempt=1, rank=0, world_size=1)
    value = torch.zeros(NUMEL, device="cuda")
    for images in (64, 128, 192):
        value.fill_(images)
        saver.save(images, 1, [Piece("weight/net/w", (NUMEL,), 0, value, lasting=lasting)], {})
        if lasting:
            torch.square(value)  # a forward beside it
            saver.settle()
        value.fill_(-1.0)
        assert saver.flush(300)
        assert newest(store).tensor("weight/net/w").unique().tolist() == [images]
