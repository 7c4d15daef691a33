"""The part that draws: averages before live weights, only its bytes read, and a file that other libraries load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import load_torch_model
from safetensors.torch import load_file
from torch import nn

from gen_dist.checkpoint import Checkpoint, CheckpointError, Piece, Saver, export_safetensors, read_model, read_recipe
from gen_dist.store.local import LocalStore
from tests.support.saves import commit, group, newest, save, state


@pytest.fixture
def found(tmp_path: Path) -> Checkpoint:
    store = LocalStore(tmp_path / "checkpoints")
    commit(group(store, attempt=1, world_size=3), 64)
    return newest(LocalStore(tmp_path / "checkpoints"))


def test_averages_come_before_live_weights_and_buffers_are_there(found: Checkpoint) -> None:
    expected = state(64)
    model = read_model(found)
    assert set(model) == {"net.w", "net.b", "net.seen"}
    assert torch.equal(model["net.w"], expected["average/net/nets.net.w"])
    assert torch.equal(model["net.b"], expected["average/net/nets.net.b"])
    assert model["net.seen"].shape == ()
    assert read_recipe(found)["pool"].shape == (0, 3)


def test_a_group_without_an_average_gives_its_live_weights(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    saver = Saver(store, attempt=1, rank=0, world_size=1)
    pieces = [
        Piece("weight/g/nets.g.w", (2,), 0, torch.ones(2)),
        Piece("average/g/nets.g.w", (2,), 0, torch.zeros(2)),
        Piece("weight/d/nets.d.w", (2,), 0, torch.full((2,), 3.0)),
    ]
    saver.save(64, 1, pieces, {})
    assert saver.flush(300)
    assert {name: value.tolist() for name, value in read_model(newest(store)).items()} == {
        "g.w": [0.0, 0.0],
        "d.w": [3.0, 3.0],
    }


def test_only_the_bytes_that_draw_are_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    savers, scale = group(store, attempt=1), 10_000
    save(savers, 64, scale=scale)
    assert all(saver.flush(300) for saver in savers)
    found = newest(store)
    before = store.stats.received_bytes
    read_model(found)
    assert store.stats.received_bytes - before == (35 * scale + 5 * scale) * 4 + 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(7, 5)


def linear_checkpoint(folder: Path) -> tuple[Checkpoint, Net]:
    torch.manual_seed(3)
    trained = Net()
    store = LocalStore(folder)
    savers = group(store, attempt=1)
    for rank, saver in enumerate(savers):
        pieces = []
        for name, value in trained.state_dict().items():
            low, high = value.numel() * rank // 2, value.numel() * (rank + 1) // 2
            pieces.append(Piece(f"weight/net/nets.{name}", tuple(value.shape), low, value.flatten()[low:high]))
        saver.save(64, 1, pieces, {})
    assert all(saver.flush(300) for saver in savers)
    return newest(store), trained


@pytest.mark.parametrize("max_shard_bytes", [1 << 30, 100])
def test_hugging_faces_own_loader_reads_an_export(tmp_path: Path, max_shard_bytes: int) -> None:
    found, trained = linear_checkpoint(tmp_path / "checkpoints")
    written = export_safetensors(found, tmp_path / "export", max_shard_bytes=max_shard_bytes)
    if max_shard_bytes == 100:
        names = [path.name for path in written]
        assert names == [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ]
        index = json.loads(written[-1].read_text())
        assert index["metadata"]["total_size"] == 40 * 4
    else:
        assert [path.name for path in written] == ["model.safetensors"]
        assert set(load_file(written[0])) == {"net.weight", "net.bias"}
    loaded = Net()
    result = load_torch_model(loaded, tmp_path / "export", strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    for name, value in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_a_checkpoint_without_weights_is_not_exported(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    saver = Saver(store, attempt=1, rank=0, world_size=1)
    saver.save(64, 1, [], {})
    assert saver.flush(300)
    with pytest.raises(CheckpointError, match="holds no weights; export another checkpoint"):
        export_safetensors(newest(store), tmp_path / "export")
