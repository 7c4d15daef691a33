"""A Ray cluster that stands by itself: a head and machines on this one, each a process tree that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

RAY = Path(sys.executable).with_name("ray")
START_S = 400.0
END_S = 30.0


class StandingCluster:
    """`address`, and the `environment` that holds its token. Use as a context."""

    def __init__(self, folder: Path, *, num_cpus: int, env: Mapping[str, str] | None = None) -> None:
        """A head with so many CPUs. `folder` takes its token and its logs; `env` is for all its machines."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        token = folder / "token"
        token.write_text("a" * 64)
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self._env = {**os.environ, **self.environment, **(env or {})}
        self._nodes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        head = ["--head", f"--port={port}", "--include-dashboard=false", "--node-ip-address=127.0.0.1"]
        self._start([*head, f"--num-cpus={num_cpus}"])

    def add_node(self, *, num_cpus: int) -> subprocess.Popen[bytes]:
        """One more machine."""
        return self._start([f"--address={self.address}", f"--num-cpus={num_cpus}"])

    def kill_node(self, node: subprocess.Popen[bytes]) -> None:
        """At once and without a word, with all that runs there: as a machine that is switched off."""
        for pid in [node.pid, *descendants(node.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait(END_S)
        self._nodes.remove(node)

    def __enter__(self) -> StandingCluster:
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(list(self._nodes)):
            node.send_signal(signal.SIGTERM)
            ours = descendants(node.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.wait(5)
            for pid in ours:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if node.poll() is None:
                node.kill()
            node.wait(END_S)

    def _start(self, words: list[str]) -> subprocess.Popen[bytes]:
        log = self._folder / f"node-{len(list(self._folder.glob('node-*.log')))}.log"
        command = [str(RAY), "start", "--block", "--disable-usage-stats", *words]
        with log.open("w") as output:
            node = subprocess.Popen(
                command, env=self._env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._nodes.append(node)
        give_up_s = time.monotonic() + START_S
        while "runtime started" not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < give_up_s, log.read_text()
            time.sleep(0.2)
        return node


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


def workers_below(pid: int) -> list[int]:
    """Those of them that are workers of Ray Train."""
    found = []
    for below in descendants(pid):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if b"ray::RayTrainWorker" in Path(f"/proc/{below}/cmdline").read_bytes():
                found.append(below)
    return found
