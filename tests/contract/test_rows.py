"""`ctx.rows`: what a contrastive loss compares with is every worker's, one's own first."""

from __future__ import annotations

import torch

from tests.support.ranks import Ranks


def own_and_others() -> list[list[int]]:
    """On each of two ranks."""
    from gen_dist.train.collective import Team

    team = Team(torch.device("cpu"))
    value = torch.tensor([[team.rank * 2], [team.rank * 2 + 1]], requires_grad=False)
    return team.rows(value).tolist()


def test_a_worker_sees_its_own_rows_first_and_then_those_of_the_others(pair: Ranks) -> None:
    assert pair.run(own_and_others) == [[[0], [1], [2], [3]], [[2], [3], [0], [1]]]


def test_one_worker_sees_its_own(single: Ranks) -> None:
    assert single.run(own_and_others) == [[[0], [1]]]
