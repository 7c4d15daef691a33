"""`gen-dist sample` says in one line what it cannot write to or draw on, before it draws where that can be known."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from gen_dist.cli import sample
from gen_dist.cli.app import main
from gen_dist.job.load import resolve
from gen_dist.sample.model import Model
from tests.support.models import write_model
from tests.support.trained import make_job


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one checkpoint."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "runs" / "small"
    write_model(folder / "checkpoints", resolve(make_job(home, "small")), images=64)
    return folder


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line of a command that ends with 2."""
    assert main([*words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-o", "."], "-o .: a folder; name a file in it, such as sample.png"),
        (["-o", "nowhere/a.png"], "-o nowhere/a.png: there is no folder nowhere; make it, or write elsewhere"),
        (["-o", "file/a.png"], "-o file/a.png: there is no folder file; make it, or write elsewhere"),
        (["-o", "/proc/a.png"], "-o /proc/a.png: "),  # which nobody may write to, not even root
        (["--device", "foo"], "--device foo: not on this machine; write "),
        (["--device", "cuda:99"], "--device cuda:99: not on this machine; write "),
        (["--device", "meta"], "--device meta: not on this machine; write "),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    monkeypatch.setattr("gen_dist.registry.find.find_model", lambda *_, **__: pytest.fail("a model was looked for"))
    assert told(capsys, "sample", "runs/small", "red heart", *words).startswith(says)
    assert not Path("sample.png").exists()


def test_the_devices_that_are_there_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cards = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    assert told(capsys, "sample", "run", "x", "--device", "foo").endswith(f"write {' or '.join([*cards, 'cpu'])}")


def test_a_disk_that_is_full_when_all_is_drawn(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = told(capsys, "sample", str(run), "red heart", "--device", "cpu", "-o", "/dev/full")
    assert line == "-o /dev/full: No space left on device; write elsewhere"


def test_a_file_that_the_system_refuses_is_one_line_and_a_traceback_for_who_asks(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "weights")

    monkeypatch.setattr(Model, "load", refused)
    words = ["sample", str(run), "red heart", "-o", str(tmp_path / "a.png")]
    assert told(capsys, *words) == "weights: Permission denied; --debug shows what wanted it"
    with pytest.raises(PermissionError):
        main([*words, "--debug"])
    monkeypatch.setattr(sample, "run", lambda *_, **__: {}["key"])  # a fault of the program stays one
    with pytest.raises(KeyError):
        main(words)
