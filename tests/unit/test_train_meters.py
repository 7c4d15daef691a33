"""What a run measures of itself, as it is read at a log line."""

from __future__ import annotations

import torch

from gen_dist.train.collective import Team
from gen_dist.train.meters import Meters


def test_what_is_descended_is_named_before_what_is_watched() -> None:
    meters = Meters(Team(torch.device("cpu")), images=0)
    slope = torch.ones((), requires_grad=True)
    losses = {"augment": torch.zeros(()), "real": 2.0 * slope, "gap": torch.zeros(()), "fake": 3.0 * slope}
    meters.put_first("discriminator", losses)
    for _ in range(2):
        meters.add("discriminator", losses)
    names = [name for name in meters.read(16) if name.startswith("loss/")]
    assert [name.rpartition("/")[2] for name in names] == ["fake", "real", "augment", "gap"]
