"""The same job on a Ray cluster that stands already, and what a good run says."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import cli

DCGAN = str(cli.ROOT / "jobs" / "smoke" / "dcgan.toml")


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray head of its own with a token of its own: its address, and the environment that holds the token."""
    token = tmp_path / "token"
    token.write_text("a" * 64)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
    command += ["--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    log = (tmp_path / "ray.log").open("w")
    head = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    give_up_s = time.monotonic() + 60
    while "runtime started" not in (tmp_path / "ray.log").read_text():
        assert head.poll() is None, (tmp_path / "ray.log").read_text()
        assert time.monotonic() < give_up_s, (tmp_path / "ray.log").read_text()
        time.sleep(0.2)
    yield f"127.0.0.1:{port}", environment
    ours = descendants(head.pid)
    head.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.wait(5)
    for pid in [*ours, head.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    head.wait(30)


def descendants(pid: int) -> list[int]:
    """All processes that a process started, and theirs."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            child, parent = int(stat.parent.name), int(stat.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(child)
    found = list(children.get(pid, []))
    for child in found:
        found += children.get(child, [])
    return found


def test_a_standing_cluster_runs_the_job_for_who_holds_its_token_and_the_log_fits_a_screen(
    tmp_path: Path, standing: tuple[str, dict[str, str]]
) -> None:
    address, environment = standing
    there = ["train", DCGAN, "--set", f"cluster.address={address}"]
    refused = cli.run(*there, cwd=tmp_path, env={"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64})
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert "cluster.address" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = cli.run(*there, cwd=tmp_path, env=environment)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log
    assert len(log.splitlines()) <= 24, "more than a screen"
    assert "warning" not in log.lower()
    assert "models:/smoke-dcgan@latest" in done.stdout
    assert "mlflow ui" in done.stdout
