"""The local stack as a person starts it: `infra/local/stack`, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pytest

from tests.support.cli import ROOT

SCRIPT = ROOT / "infra" / "local" / "stack"
START_S = 1_500.0  # MLflow's tables and three Ray nodes, on a starved machine
INHERITED = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}


def missing() -> str:
    """Why no stack can run here; empty where it can."""
    found = list(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and shutil.which("initdb") is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    return "" if shutil.which("curl") else "curl is not installed"


@dataclass(frozen=True)
class Stack:
    """A stack by its folder. `environment` is what `stack env` gives a shell."""

    folder: Path
    options: tuple[str, ...] = field(default=())

    def call(self, verb: str, *options: str, timeout_s: float = START_S) -> subprocess.CompletedProcess[str]:
        """The script, to its end."""
        words = [str(SCRIPT), verb, "--folder", str(self.folder), *options]
        return subprocess.run(words, env=INHERITED, capture_output=True, text=True, timeout=timeout_s, check=False)

    def up(self) -> None:
        done = self.call("up", *self.options)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """What a shell exports after `eval "$(stack env)"`."""
        words = f"{self.call('env').stdout}\nenv -0"
        done = subprocess.run(["bash", "-ceu", words], env=INHERITED, capture_output=True, text=True, check=True)
        pairs = (line.partition("=") for line in done.stdout.split("\0") if line)
        return {name: value for name, _, value in pairs if INHERITED.get(name) != value}

    def secrets(self) -> dict[str, str]:
        """What nobody may see, by file."""
        return {path.name: path.read_text().strip() for path in (self.folder / "secrets").iterdir()}

    def pids(self) -> dict[str, int]:
        """The process of each part."""
        return {path.name: int(path.read_text().split()[0]) for path in (self.folder / "pids").iterdir()}


@contextmanager
def run_stack(*options: str) -> Iterator[Stack]:
    """Start one, and end and remove it afterwards. Skips, with the reason, where something of the system is missing."""
    if why := missing():
        pytest.skip(why)
    # not below pytest's own folder: as root, PostgreSQL runs as another user, who may not enter that
    folder = Path(tempfile.mkdtemp(prefix="gen-dist-stack-", dir="/var/tmp"))
    folder.chmod(0o711)
    stack = Stack(folder / "stack", options)
    try:
        stack.up()
        yield stack
    finally:
        stack.call("down", "--wipe")
        shutil.rmtree(folder, ignore_errors=True)
