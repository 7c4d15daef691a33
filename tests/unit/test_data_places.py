"""Folders that cannot be written, disks that are full and globs that cannot be: one line each, and no traceback."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gen_dist.cli.app import main
from gen_dist.job.shards import shards
from gen_dist.store import StoreError, open_store
from gen_dist.store.local import make_folder
from tests.support.shards import noise, png, write_shards


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line that a command ends with, behind those of its progress."""
    assert main(["data", *words]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(png(noise(number)))
    return folder


@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_a_destination_that_is_a_file_or_below_one(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    (tmp_path / "file").write_text("here already")
    line = told(capsys, "pack", str(pictures), f"{tmp_path}/file{below}")
    assert "file is a file and no folder); name a folder" in line or "the folder is a file" in line


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere else
    with pytest.raises(StoreError, match=r"no folder to write to .nothing can be written there.; give this user"):
        make_folder(tmp_path)


def test_a_full_disk_for_temporary_files(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, sample: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("webdataset.TarWriter.write", full)
    line = told(capsys, "pack", str(pictures), str(tmp_path / "out"), "--workers", "1")
    assert "no room to write a shard (No space left on device); make room there, or set TMPDIR" in line


def test_a_sheet_that_cannot_be_written_is_told_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "in", num_samples=2, per_shard=2)
    monkeypatch.setattr("gen_dist.data.inspect.look", None)
    line = told(capsys, "inspect", str(tmp_path / "in"), "-o", str(tmp_path))
    assert line.endswith(f"a folder; name a file in it, such as {tmp_path / 'sheet.png'}")
    line = told(capsys, "inspect", str(tmp_path / "in"), "-o", "/proc/sheet.png")
    assert line.endswith("No such file or directory; write elsewhere")


@pytest.mark.parametrize("pattern", ["/data/*.tar", "**.tar", "", ".", "../in/*.tar", "a/**b/*.tar"])
def test_a_glob_that_no_folder_can_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    write_shards(tmp_path / "in", num_samples=2, per_shard=2)
    line = told(capsys, "index", str(tmp_path / "in"), "--pattern", pattern)
    assert f"in: the pattern {pattern!r} " in line
    assert "; " in line
    with pytest.raises(StoreError):
        open_store(str(tmp_path / "in")).list(pattern)
    assert shards(str(tmp_path / "in"), pattern) == {}
