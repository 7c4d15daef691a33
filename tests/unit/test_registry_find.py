"""What is drawn from is what was trained: a damaged checkpoint is passed over aloud, or refused, and never drawn from.

The damage is one bit of a weight, which no size and no header tells.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gen_dist.checkpoint import CheckpointError
from gen_dist.cli.app import main
from gen_dist.job.load import resolve
from gen_dist.registry.find import find_model
from gen_dist.registry.origin import find_origin
from gen_dist.registry.publish import publish
from gen_dist.registry.runs import is_whole_at
from gen_dist.sample.trained import Trained
from gen_dist.store.local import LocalStore
from tests.support.models import write_model
from tests.support.trained import make_job

DAMAGED = "its SHA-256 is "


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with checkpoints of 64 and 128 images."""
    folder = tmp_path / "runs" / "small"
    for images in (64, 128):
        write_model(folder / "checkpoints", resolve(make_job(tmp_path, "small")), images=images, seed=images)
    return folder


def damage(run: Path, images: int) -> Path:
    """Flips one bit of a checkpoint's last byte; its folder."""
    (path,) = (run / "checkpoints").glob(f"images-{images:012d}*/rank00000.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    return path.parent


def test_sample_draws_from_the_newest_whole_checkpoint_and_says_so(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = find_model(str(run / "checkpoints" / "images-000000000064.a000001")).place
    newest = damage(run, 128)
    words = ["sample", str(run), "red heart", "-o", str(tmp_path / "drawn.png"), "--json"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["model"] == before
    (line,) = told.err.splitlines()
    assert line.startswith(f"warning    {newest}/rank00000.safetensors: {DAMAGED}")
    assert line.endswith("; this is images-000000000064.a000001")
    damage(run, 64)
    assert main(words[:-1]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("none of 2 checkpoints is whole")


def test_a_damaged_checkpoint_that_is_named_is_an_error_of_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = damage(run, 128)
    assert main(["sample", str(newest), "red heart", "-o", str(tmp_path / "drawn.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{newest}/rank00000.safetensors: {DAMAGED}")
    assert not (tmp_path / "drawn.png").exists()


def test_nothing_is_registered_of_a_damaged_checkpoint(run: Path, tmp_path: Path) -> None:
    damage(run, 128)
    source, database = find_model(str(run)), tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    with pytest.raises(CheckpointError, match=DAMAGED):
        publish(make_job(tmp_path, "small"), source, run_id=None, tracking_uri=uri, sample_prompts=[""])
    assert not database.exists()  # it was told before MLflow was asked for anything


def test_the_gate_that_compares_with_the_checkpoint_reads_no_damaged_one(run: Path) -> None:
    newest = damage(run, 128)
    trained = find_origin(str(newest.parent), newest.name)
    assert trained is not None
    with pytest.raises(CheckpointError, match=DAMAGED):
        trained.tensors()


def test_a_run_has_ended_only_where_its_newest_checkpoint_is_whole(run: Path) -> None:
    store = LocalStore(run / "checkpoints")
    assert is_whole_at(store, 128)
    assert not is_whole_at(store, 129)
    damage(run, 128)
    assert not is_whole_at(store, 128)


def test_a_file_is_hashed_once_however_often_it_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = find_model(str(run))
    assert isinstance(source, Trained)
    streamed: list[str] = []
    plain = LocalStore.stream

    def stream(store: LocalStore, name: str, *, version: str = "") -> object:
        streamed.append(name)
        return plain(store, name, version=version)

    monkeypatch.setattr(LocalStore, "stream", stream)
    for read in (source.weights, source.recipe_state, source.weights):
        read()
    assert streamed == [f"{source.checkpoint.name}/rank00000.safetensors"]
