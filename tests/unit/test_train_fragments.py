"""What each rank writes where all ranks hold everything: equal parts that are all of it, each element once."""

from __future__ import annotations

import math

import pytest
import torch

from gen_dist.train.fragments import Fragment, share

SHAPES = [(3, 7), (1,), (5,), (64, 3, 3), (2,), (1,)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_shares_are_equal_and_are_all_of_it_once(size: int) -> None:
    whole = [Fragment(f"p{number}", shape, 0, math.prod(shape), number, 0) for number, shape in enumerate(SHAPES)]
    seen = {one.name: torch.zeros(one.numel, dtype=torch.int64) for one in whole}
    numels = []
    for rank in range(size):
        own = share(whole, rank=rank, size=size)
        numels.append(sum(one.numel for one in own))
        for one in own:
            assert one.start == one.offset
            seen[one.name][one.start : one.start + one.numel] += 1
    assert max(numels) - min(numels) <= 1
    assert all((count == 1).all() for count in seen.values())


def test_a_fragment_is_read_and_written_where_it_lies() -> None:
    masters = [torch.zeros(2, 3), torch.arange(10.0)]
    part = Fragment("p", (4, 4), 8, 3, 1, 2)
    assert part.of(masters).tolist() == [2.0, 3.0, 4.0]
    part.put(masters, torch.tensor([7.0, 8.0, 9.0]))
    assert masters[1].tolist() == [0.0, 1.0, 7.0, 8.0, 9.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    whole = Fragment("q", (2, 3), 0, 6, 0, 0)
    whole.put(masters, torch.arange(6.0))
    assert masters[0].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_a_whole_parameter_keeps_its_memory_format() -> None:
    master = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    values = torch.arange(120.0)
    Fragment("p", (2, 3, 4, 5), 0, 120, 0, 0).put([master], values)
    assert torch.equal(master, values.view(2, 3, 4, 5))
    assert master.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(Fragment("p", (2, 3, 4, 5), 5, 50, 0, 5).of([master.flatten()]), values[5:55])
