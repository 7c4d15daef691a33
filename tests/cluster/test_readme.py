"""The README's commands work as they are written, in their order; only the runs are made shorter."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.cli import LONGEST_RUN_S, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = [
    "train.total_images=192",
    "train.warmup_images=0",
    "model.autoencoder_images=96",
    "train.sample_every_images=0",
    "model.denoiser_channels=[32, 64]",
    "model.sample_steps=4",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a person's clone looks like from its top, with a runs/ of its own."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / ".venv").symlink_to(sys.prefix, target_is_directory=True)
    (folder / "jobs").symlink_to(ROOT / "jobs", target_is_directory=True)
    return folder


def run(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=LONGEST_RUN_S, check=False)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_commands_work_in_their_order(home: Path) -> None:
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert ["infra/dev", "demo"] in commands
    shorter = [word for key in SHORTER for word in ("--set", key)]
    for command in commands:
        if command == ["infra/dev", "demo"]:
            # the script works in its own clone: only its runs come here
            run([str(ROOT / "infra" / "dev"), "demo", *shorter, "--set", f"run.folder={home}/runs"], home)
        elif command[:2] == [".venv/bin/gen-dist", "train"]:
            run([*command, *shorter], home)
        elif command[0] == ".venv/bin/mlflow":
            answers(command, home)
        else:
            run(command, home)
    assert (home / "heart.png").read_bytes().startswith(b"\x89PNG")


def answers(command: list[str], cwd: Path) -> None:
    """A server: its page comes, then we end it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],  # one answers as four do
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        give_up_s = time.monotonic() + LONGEST_RUN_S
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as page:
                    assert b"<html" in page.read().lower()
                    return
            except OSError:
                assert server.poll() is None, "mlflow ui ended"
                assert time.monotonic() < give_up_s, "mlflow ui does not answer"
                time.sleep(0.5)
    finally:
        os.killpg(server.pid, 15)
        server.wait(120)


def test_the_python_block_draws_from_the_registered_model(home: Path) -> None:
    (code,) = blocks("python")
    (home / "heart.png").unlink(missing_ok=True)
    run([sys.executable, "-c", code], home)
    assert (home / "heart.png").read_bytes().startswith(b"\x89PNG")
