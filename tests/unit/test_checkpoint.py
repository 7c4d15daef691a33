"""A checkpoint is there whole or not at all, holds no pickle, and only the newest are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gen_dist import checkpoint
from gen_dist.checkpoint.write import FORMAT

FACTS = {"step": 1, "job": {}, "group_steps": {"net": 1}, "data_digest": "d", "versions": {}}


def write(folder: Path, images: int, value: float = 1.0) -> Path:
    writer = checkpoint.CheckpointWriter(folder, images=images)
    writer.tensors("model", {"net.weight": torch.full((3,), value)})
    return writer.commit({**FACTS, "images": images})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, 640, 0.5)
    assert checkpoint.read_model(path)["net.weight"].tolist() == [0.5] * 3
    assert checkpoint.read_manifest(path).images == 640


def test_a_writer_that_died_leaves_nothing_to_find(tmp_path: Path) -> None:
    good = write(tmp_path, 640)
    checkpoint.CheckpointWriter(tmp_path, images=1280).tensors("model", {"net.weight": torch.ones(3)})
    assert checkpoint.newest(tmp_path) == good
    checkpoint.keep_newest(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == [good.name]


def test_the_same_point_reached_again_replaces_the_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 640, 1.0)
    path = write(tmp_path, 640, 2.0)
    assert checkpoint.read_model(path)["net.weight"].tolist() == [2.0] * 3
    assert len(list(tmp_path.iterdir())) == 1


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for images in (64, 128, 1024, 192):
        write(tmp_path, images)
    checkpoint.keep_newest(tmp_path, 2)
    assert [checkpoint.read_manifest(path).images for path in checkpoint.checkpoints(tmp_path)] == [192, 1024]


def test_what_is_no_checkpoint_is_told_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointError, match="name a checkpoint folder"):
        checkpoint.read_manifest(tmp_path)
    (tmp_path / "checkpoint.json").write_text("{")
    with pytest.raises(checkpoint.CheckpointError, match="take an older checkpoint"):
        checkpoint.read_manifest(tmp_path)
    (tmp_path / "checkpoint.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(checkpoint.CheckpointError, match=FORMAT):
        checkpoint.read_manifest(tmp_path)
    path = write(tmp_path, 64)
    (path / "model.safetensors").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.safetensors: missing"):
        checkpoint.read_model(path)
