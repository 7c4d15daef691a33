"""Several hosts on this machine: network namespaces, each with an address of its own, joined by a bridge.

A thread that has entered a host opens its sockets there, and the processes that it starts live there: a Ray node, a
server, a command. Nothing of it is seen from outside: the bridge is in a namespace too, and no route leaves it.
Needs root and Debian's iproute2; `why_not` says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PREFIX, SHORT = "gen-dist-test-", "gd-"  # of namespaces, and of folders in /tmp
MASK_BITS = 24
CABLE = "eth0"  # of each host, to the bridge
CLONE_NEWNET = 0x40000000  # of <sched.h>
_IP = shutil.which("ip", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))


class HostsError(Exception):
    """A host that cannot be made, entered or left."""


@dataclass(frozen=True)
class Host:
    """One machine's place in the network."""

    name: str
    ip: str
    namespace: str = ""
    """Empty: the network of this machine."""
    folder: Path | None = None
    """For what Ray keeps at /tmp/ray. A short path: Unix sockets lie in it."""

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within, this thread is on the host, with the processes that it starts and the connections that it opens."""
        if not self.namespace:
            yield
            return
        with open("/proc/thread-self/ns/net") as before:
            with open(f"/run/netns/{self.namespace}") as there:
                _set_network(there.fileno())
            try:
                yield
            finally:
                _set_network(before.fileno())


HERE = Host("here", "127.0.0.1")
"""This machine's own network."""


class Network:
    """Hosts by name, at 10.77.0.1 and so on. Use as a context; hosts of test runs that were killed end with it."""

    _numbers = itertools.count()  # one process may have several

    def __init__(self, names: Sequence[str]) -> None:
        sweep()
        self._run = f"{PREFIX}{os.getpid()}-{_started(os.getpid())}-{next(self._numbers)}-"
        self._bridge = f"{self._run}bridge"
        self._folder = Path("/tmp", self._run.replace(PREFIX, SHORT).rstrip("-"))  # see Host.folder
        self.hosts = {
            name: Host(name, f"10.77.0.{number}", self._run + name, self._folder / name)
            for number, name in enumerate(names, start=1)
        }

    def __enter__(self) -> Network:
        try:
            _ip("netns", "add", self._bridge)
            _ip("-n", self._bridge, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._bridge, "link", "set", "bridge", "up")
            for host in self.hosts.values():
                self._plug_in(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in [host.namespace for host in self.hosts.values()] + [self._bridge]:
            _remove(namespace)
        shutil.rmtree(self._folder, ignore_errors=True)

    def cut(self, host: Host) -> None:
        """Its cable is pulled out: nothing arrives any more, and no connection is told."""
        _ip("-n", self._bridge, "link", "set", host.name, "down")

    def mend(self, host: Host) -> None:
        """Its cable is put in again."""
        _ip("-n", self._bridge, "link", "set", host.name, "up")

    def _plug_in(self, host: Host) -> None:
        _ip("netns", "add", host.namespace)
        cable = ["link", "add", CABLE, "type", "veth", "peer", "name", host.name, "netns", self._bridge]
        _ip("-n", host.namespace, *cable)
        _ip("-n", self._bridge, "link", "set", host.name, "master", "bridge", "up")
        _ip("-n", host.namespace, "address", "add", f"{host.ip}/{MASK_BITS}", "dev", CABLE)
        for link in ("lo", CABLE):
            _ip("-n", host.namespace, "link", "set", link, "up")
        assert host.folder is not None
        host.folder.mkdir(parents=True)


@functools.cache
def why_not() -> str:
    """Why there can be no hosts here, in a line; nothing where there can."""
    if _IP is None:
        return "no `ip` command here (Debian: apt-get install iproute2)"
    try:
        with Network(["probe"]) as network, network.hosts["probe"].entered():
            pass
    except (HostsError, OSError) as error:
        return f"no network namespaces here ({error})"
    return ""


def sweep() -> None:
    """Remove what processes that are gone have left."""
    for namespace in Path("/run/netns").glob(f"{PREFIX}*"):
        pid, started = namespace.name.removeprefix(PREFIX).split("-")[:2]
        if _started(int(pid)) != started:
            _remove(namespace.name)
    for folder in Path("/tmp").glob(f"{SHORT}*-*"):
        pid, started = folder.name.removeprefix(SHORT).split("-")[:2]
        if pid.isdigit() and _started(int(pid)) != started:
            shutil.rmtree(folder, ignore_errors=True)


def _remove(namespace: str) -> None:
    """A namespace with all that runs in it."""
    if not Path("/run/netns", namespace).exists():
        return
    for pid in _ip("netns", "pids", namespace).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", namespace)


def _started(pid: int) -> str:
    """When a process started, in ticks since boot: with its number, it names it for good. Nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def _set_network(file: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(file, CLONE_NEWNET):
        raise HostsError(f"setns: {os.strerror(ctypes.get_errno())}")


def _ip(*words: str) -> str:
    done = subprocess.run([_IP or "ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostsError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
