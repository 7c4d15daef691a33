"""T19: checkpoints of older releases, ours and DeepSpeed's, are loaded bit for bit. See `tests/contract/older/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract import native, reshard
from tests.contract.older import archive
from tests.support.ranks import Ranks


@pytest.mark.parametrize("name", archive.names("gen-dist"))
def test_a_checkpoint_of_ours_is_read_as_it_was(pair: Ranks, tmp_path: Path, name: str) -> None:
    truths = archive.unpack(name, tmp_path)
    assert len(truths) == 3
    ways = [way for way in reshard.ways(2) if way.name in truths]
    for faults in pair.run(reshard.read, ways, truths, tmp_path):
        assert not faults, "\n".join(faults[:10])


@pytest.mark.parametrize("name", archive.names("deepspeed"))
def test_a_checkpoint_of_deepspeed_is_taken_over(tmp_path: Path, name: str) -> None:
    truths = archive.unpack(name, tmp_path)
    assert len(truths) == 3
    for way, truth in truths.items():
        for group in ("a", "b"):
            imported = native.read(tmp_path / way / group, tmp_path / way / f"{group}-read", truth, group)
            native.assert_is(imported, truth, group)


def test_both_are_kept() -> None:
    assert archive.names("gen-dist")
    assert archive.names("deepspeed")
