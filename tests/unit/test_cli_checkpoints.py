"""`gen-dist checkpoints` shows what a run can go on from, finds damage, and removes only what it said it would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gen_dist.checkpoint import Name, begin_attempt, note_base, pin
from gen_dist.cli.app import main
from gen_dist.store.local import LocalStore
from tests.support.saves import commit, group, state


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with three checkpoints, one on a dead branch and one that was never committed."""
    store = LocalStore(tmp_path / "run" / "checkpoints")
    savers = group(store, attempt=begin_attempt(store))
    for images in (64, 128, 192):
        commit(savers, images)
    note_base(store, begin_attempt(store), str(Name(128, 1)))
    commit(group(store, attempt=2), 256)
    store.write(f"{Name(320, 2)}/rank00000.safetensors", b"torn")
    return tmp_path / "run"


def asked(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> dict[str, Any]:
    assert main(["checkpoints", *map(str, words), "--json"]) == code
    return dict(json.loads(capsys.readouterr().out))


def damage(run: Path, name: Name) -> None:
    """Flips one bit of a weight."""
    path = run / "checkpoints" / str(name) / "rank00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_each_checkpoint_is_listed_with_its_state(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pin(LocalStore(run / "checkpoints"), str(Name(64, 1)), by="model-1")
    facts = asked(capsys, run)
    assert [(one["images"], one["attempt"], one["state"], one["pinned"]) for one in facts["checkpoints"]] == [
        (320, 2, "not committed", False),
        (256, 2, "newest", False),
        (192, 1, "left behind", False),
        (128, 1, "older", False),
        (64, 1, "older", True),
    ]
    assert main(["checkpoints", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert "images-000000000256.a000002  " in lines[2]
    assert " newest " in lines[2]


def test_a_dry_run_tells_what_a_prune_then_removes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = asked(capsys, run, "--prune", "--keep", 1, "--dry-run")
    assert [one["name"] for one in told["removed"]] == [str(Name(count, 1)) for count in (64, 128, 192)]
    assert told["removed_bytes"] > 1000
    assert len(told["checkpoints"]) == 5
    done = asked(capsys, run, "--prune", "--keep", 1)
    assert done["removed"] == told["removed"]
    assert [one["images"] for one in done["checkpoints"]] == [320, 256]
    assert main(["checkpoints", str(run), "--prune", "--keep", "1", "--dry-run"]) == 0
    assert "would go" not in capsys.readouterr().out


def test_damage_is_told_and_ends_with_1(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(capsys, run, "--verify")["damaged"] == {}
    damage(run, Name(128, 1))
    assert list(asked(capsys, run, "--verify", code=1)["damaged"]) == [str(Name(128, 1))]


@pytest.mark.parametrize("words", [["--prune"], ["--prune", "--verify"]])
@pytest.mark.parametrize(
    ("keep", "damaged", "remedy"),
    [
        (1, Name(256, 2), "train on, which goes back behind it and writes another, then prune"),
        (2, Name(128, 1), "lower --keep"),
    ],
)
def test_nothing_is_removed_while_what_would_stay_is_damaged(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], keep: int, damaged: Name, remedy: str
) -> None:
    damage(run, damaged)
    before = sorted((run / "checkpoints").rglob("*"))
    assert main(["checkpoints", str(run), *words, "--keep", str(keep)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"nothing removed, {damaged} is to stay and is damaged (")
    assert remedy in line
    assert sorted((run / "checkpoints").rglob("*")) == before
    code = 1 if "--verify" in words else 0
    assert len(asked(capsys, run, *words, "--keep", keep, "--dry-run", code=code)["removed"]) == 4 - keep


def test_a_damaged_checkpoint_that_goes_holds_up_no_prune(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run, Name(128, 1))
    assert len(asked(capsys, run, "--prune", "--keep", 1)["removed"]) == 3


def test_the_newest_is_exported_for_other_libraries(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.parent / "export"
    assert asked(capsys, run, "--export", folder)["exported"] == [str(folder / "model.safetensors")]
    expected = state(256)
    assert torch.equal(load_file(folder / "model.safetensors")["net.w"], expected["average/net/nets.net.w"])
    assert main(["checkpoints", str(run), "--export", str(folder)]) == 2
    assert "exists already; name a new folder" in capsys.readouterr().err


def test_an_export_that_cannot_be_written_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "file").touch()
    assert main(["checkpoints", str(run), "--export", str(run / "file" / "x")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"--export {run / 'file' / 'x'}: Not a directory; write elsewhere"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "nowhere: no such folder; name a run folder"),
        (["empty"], "empty: no checkpoint yet"),
        (["run", "--dry-run"], "write --prune --dry-run"),
        (["run", "--prune"], "no job says what to keep; add --keep"),
    ],
)
def test_what_cannot_be_done_is_told_on_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    monkeypatch.chdir(run.parent)
    Path("empty").mkdir()
    assert main(["checkpoints", *words]) == 2
    told = capsys.readouterr().err.strip()
    assert says in told
    assert "\n" not in told
