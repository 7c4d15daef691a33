"""A Ray cluster that stands by itself: a head and machines on this one, each a process tree that can be killed.

They share the network of this machine, or each has a host of its own (`tests.support.hosts`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.support.hosts import HERE, Host

ROOT = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).with_name("ray")
START_S = 400.0
STARTS = 3
END_S = 30.0

DRAIN = """
import sys, time
import ray
from ray.core.generated import autoscaler_pb2

address, ip, window_s = sys.argv[1:]
client = ray._raylet.GcsClient(address=address)
alive = {node_id: node for node_id, node in client.get_all_node_info().items() if node.state == 0}
named = [node_id for node_id, node in alive.items() if ip in ("", node.node_manager_address)]
node_id = max(named, key=lambda node_id: alive[node_id].start_time_ms)
reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
deadline_ms = int((time.time() + float(window_s)) * 1000)
accepted, message = client.drain_node(node_id.hex(), reason, "a test", deadline_ms)
assert accepted, message
"""


class StandingCluster:
    """`address`, and the `environment` that holds its token. Use as a context."""

    def __init__(
        self,
        folder: Path,
        *,
        num_cpus: int,
        env: Mapping[str, str] | None = None,
        head: Host = HERE,
        dashboard: bool = False,
    ) -> None:
        """A head with so many CPUs. `folder` takes its token and its logs; `env` is for all its machines.

        With `dashboard` it takes submitted jobs, at `dashboard_url`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        token = folder / "token"
        token.write_text("a" * 64)
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self._env = {**os.environ, **self.environment, **(env or {})}
        self._nodes: list[subprocess.Popen[bytes]] = []
        # What is submitted is unpacked there: machines that share it read what another one has half written.
        # A short path: Unix sockets lie in it.
        self._scratch = Path(tempfile.mkdtemp(prefix="gd-", dir=self._env.get("RAY_TMPDIR", "/tmp")))
        with head.entered():
            port, page, agent, client = free_ports(4, ip=head.ip)
        self.address = f"{head.ip}:{port}"
        self.dashboard_url = f"http://{head.ip}:{page}"
        words = ["--head", f"--port={port}", f"--num-cpus={num_cpus}", f"--include-dashboard={str(dashboard).lower()}"]
        words.append(f"--ray-client-server-port={client}")  # heads on one machine would fight for Ray's own
        if dashboard:
            self._env["PATH"] = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"  # a submitted job runs `python`
            words += [f"--dashboard-host={head.ip}", f"--dashboard-port={page}"]
            words.append(f"--dashboard-agent-listen-port={agent}")
        self._start(words, host=head)
        if dashboard:
            with head.entered():
                self._wait_for_dashboard("a" * 64)

    def add_node(
        self, *, num_cpus: int, host: Host = HERE, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """One more machine; `env` is for it alone."""
        return self._start([f"--address={self.address}", f"--num-cpus={num_cpus}"], host=host, env=env)

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
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self, words: list[str], *, host: Host, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """A node that is up. Ray gives one up whose agent takes 15 s, as on a busy machine: then it is tried again."""
        for tries_left in reversed(range(STARTS)):
            number = len(list(self._folder.glob("node-*.log")))
            log = self._folder / f"node-{number}.log"
            node = self._started(words, number=number, log=log, host=host, env=env)
            self._nodes.append(node)
            give_up_s = time.monotonic() + START_S
            while "runtime started" not in log.read_text() and node.poll() is None:
                assert time.monotonic() < give_up_s, log.read_text()
                time.sleep(0.2)
            if node.poll() is None:
                break
            assert tries_left, log.read_text()
            assert "timed out during startup" in log.read_text(), log.read_text()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)  # what it started, which would hold its ports
            self._nodes.remove(node)
        return node

    def _started(
        self, words: list[str], *, number: int, log: Path, host: Host, env: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.support.patient_ray", "start", "--block", "--disable-usage-stats"]
        command += [f"--node-ip-address={host.ip}", "--include-log-monitor=false", *words]
        command.append(f"--temp-dir={host.folder or self._scratch / str(number)}")
        with log.open("w") as output, host.entered():
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self._env, **(env or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait_for_dashboard(self, token: str) -> None:
        """Ray waits for it, but not for long."""
        asked = urllib.request.Request(f"{self.dashboard_url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
        give_up_s = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(asked, timeout=60).read()
                return
            except OSError:
                assert time.monotonic() < give_up_s, (self._folder / "node-0.log").read_text()
                time.sleep(0.5)


def free_ports(count: int, *, ip: str = "127.0.0.1") -> list[int]:
    """Ports at an address of this machine that nobody listens at."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((ip, 0))
        return [probe.getsockname()[1] for probe in probes]


def drain(address: str, *, window_s: float, env: Mapping[str, str], ip: str = "") -> None:
    """What a cloud does that takes a machine away, the one at `ip` or the newest: Ray hears of it."""
    words = [sys.executable, "-c", DRAIN, address, ip, str(window_s)]
    done = subprocess.run(words, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
