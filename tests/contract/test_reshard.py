"""A checkpoint loads bit for bit at any ZeRO stage, number of workers and precision, whatever it was written at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gen_dist.checkpoint import candidates, open_checkpoint
from gen_dist.store import open_store
from tests.contract import reshard
from tests.support.ranks import Ranks

Truths = dict[str, dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def trio() -> Iterator[Ranks]:
    """Three ranks."""
    with Ranks(3) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reshard")


@pytest.fixture(scope="module")
def written(single: Ranks, pair: Ranks, trio: Ranks, folder: Path) -> Truths:
    """Checkpoints of 21 ways; what is in each, as DeepSpeed tells it."""
    found: Truths = {}
    trio.start()  # while the others work
    for ranks in (single, pair, trio):
        found |= ranks.run(reshard.write, reshard.ways(ranks.size), folder)[0]
    return found


def test_a_checkpoint_holds_every_number_of_the_run_once(written: Truths, folder: Path) -> None:
    assert len(written) == 21
    for name, wanted in written.items():
        store = open_store(str(folder / name))
        checkpoint = open_checkpoint(store, candidates(store)[0])
        checkpoint.verify()
        assert set(checkpoint.keys()) == wanted.keys()
        for key, value in wanted.items():
            found = checkpoint.tensor(key)
            assert np.array_equal(found.float().numpy() if found.is_floating_point() else found.numpy(), value), key
        stored = sum(file.size_bytes for file in checkpoint.manifest.files.values())
        numbers = sum(checkpoint.entry(key).numel * checkpoint.dtype(key).itemsize for key in wanted)
        headers = sum(
            8 + int.from_bytes((folder / name / checkpoint.name / file).open("rb").read(8), "little")
            for file in checkpoint.manifest.files
        )
        assert stored == numbers + headers, "padding, or something twice"
        sections = {key.partition("/")[0] for key in wanted}
        assert sections == {"weight", "average", "exp_avg", "exp_avg_sq", "buffer"}
        assert any(key.endswith("table") for key in wanted), "no frozen parameter"


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long), 3])
def test_it_is_read_back_bit_for_bit_in_every_way(
    written: Truths, single: Ranks, pair: Ranks, trio: Ranks, folder: Path, workers: int
) -> None:
    ranks = {1: single, 2: pair, 3: trio}[workers]
    for faults in ranks.run(reshard.read, reshard.ways(workers), written, folder):
        assert not faults, "\n".join(faults[:10])
