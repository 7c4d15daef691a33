"""The story that infra/README.md tells of the local stack, by its own commands in their order: from images in a folder
to drawings by a model of the registry, with a machine lost on the way.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.support.cli import OUTPUT, PROGRAM, ROOT
from tests.support.stack import Stack, run_stack

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]  # a cluster whose machines come and go

END_S = 1_500.0
README = (ROOT / "infra" / "README.md").read_text(encoding="utf-8")


def story() -> list[str]:
    """The commands of the block that packs images, without what the shell does not see."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    (block,) = [block for block in blocks if "gen-dist data pack" in block]
    return [line.split("  #")[0].strip() for line in block.splitlines()]


class Shell:
    """A person's shell with the stack's environment, at the top of the clone; all that it writes goes to `folder`."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self._folder = stack, folder
        path = f"{PROGRAM.parent}:{os.environ['PATH']}"
        self._env = {**os.environ, **stack.environment, "PATH": path, "XDG_STATE_HOME": str(folder / "state")}
        self._left = story()

    def next(self, words: str) -> str:
        """The next command of the story, which begins so, to its end. Returns what it said."""
        done = subprocess.run(
            ["bash", "-ceu", self._command(words)],
            **self._place,
            capture_output=True,
            text=True,
            timeout=END_S,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def next_until(self, words: str, text: str) -> None:
        """The next command, which goes on until it has said this; then Ctrl-C."""
        log = self._folder / OUTPUT
        with log.open("w") as output:
            following = subprocess.Popen(
                ["bash", "-ceu", f"exec {self._command(words)}"],
                **self._place,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(lambda: text in log.read_text() or following.poll() is not None, text, log.read_text)
            assert text in log.read_text(), log.read_text()
        finally:
            following.send_signal(signal.SIGINT)
            following.wait(END_S)

    def said(self) -> str:
        """All that the newest job has said."""
        words = [str(PROGRAM), "logs", "stack"]
        return subprocess.run(words, **self._place, capture_output=True, text=True, timeout=END_S, check=True).stdout

    def finished(self) -> bool:
        """Whether all of the story was told."""
        return not self._left

    @property
    def _place(self) -> dict[str, object]:
        return {"cwd": ROOT, "env": self._env}

    def _command(self, words: str) -> str:
        command = self._left.pop(0)
        assert command.startswith(words), f"the story goes on with: {command}"
        command = command.replace("-o stack.png", f"-o {shlex.quote(str(self._folder / 'stack.png'))}")
        if command.startswith("infra/local/stack"):
            command = f"{command} --folder {shlex.quote(str(self.stack.folder))}"
        return command


def wait_until(true: Callable[[], bool], what: str, told: Callable[[], str]) -> None:
    give_up_s = time.monotonic() + END_S
    while not true():
        assert time.monotonic() < give_up_s, f"waited for {what}:\n{told()}"
        time.sleep(1)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with run_stack() as running:
        yield running


def test_the_story_of_the_stack_is_true(stack: Stack, tmp_path: Path) -> None:
    shell = Shell(stack, tmp_path)
    assert "held out" in shell.next("gen-dist data pack")
    assert ": 0 wrong, " in shell.next("gen-dist doctor")
    assert "take " in shell.next("gen-dist plan")
    assert "stack-1" in shell.next("gen-dist submit")
    shell.next_until("gen-dist logs -f", "images/s")

    shell.next("infra/local/stack kill worker-2")
    wait_until(lambda: "workers    1" in shell.said(), "a group of one", shell.said)
    shell.next("infra/local/stack up")
    wait_until(lambda: shell.said().count("workers    2") == 2, "a group of two again", shell.said)

    shell.next("gen-dist stop")
    assert "images-" in shell.said(), "a checkpoint to go on from"
    assert "done" in shell.next("gen-dist resume -f")
    shell.next("gen-dist sample models:/stack@latest")
    with Image.open(tmp_path / "stack.png") as grid:
        assert min(grid.size) >= 16
    assert shell.finished()
