"""A cluster as a company has it, on this machine: a Ray head and two nodes, and a host with S3 and MLflow.

Each is a host of its own (`tests.support.hosts`). Where there can be none, all of them share the network of this
machine, and `why_one_host` says why: what is about cables is skipped then.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gen_dist.data.emoji import build
from gen_dist.train import ray_settings
from tests.support import cli
from tests.support.gateway import Gateway, run_gateway
from tests.support.hosts import CABLE, HERE, Host, Network, why_not
from tests.support.mlflow_server import run_mlflow
from tests.support.ray_cluster import StandingCluster, workers_below
from tests.support.run_faults import settings

HEAD, NODES, STORAGE = "head", ("node-1", "node-2"), "storage"
EMOJI = Path(build.__file__).parent


@dataclass
class Site:
    """What runs where. Commands of a person are given on the head."""

    hosts: dict[str, Host]
    gateway: Gateway
    mlflow: str
    """Address of its server."""
    cluster: StandingCluster
    environment: dict[str, str]
    """Of a command: how to get into the bucket and the cluster."""
    network: Network | None
    why_one_host: str
    _nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _runs: list[cli.Running] = field(default_factory=list)

    def keys(self, **more: Any) -> list[str]:
        """`--set` words of a job that runs here: data and checkpoints in the bucket, its record on the server."""
        bucket, place = f"s3://{self.gateway.bucket}", {"endpoint_url": self.gateway.endpoint_url, "addressing": "path"}
        where = {f"{part}__s3__{name}": value for part in ("data", "run") for name, value in place.items()}
        where |= {"data__url": f"{bucket}/emoji", "run__checkpoints": f"{bucket}/runs"}
        where |= {"cluster__address": self.cluster.address, "tracking__uri": self.mlflow}
        return settings(**{**where, **more})

    def start_node(self, name: str) -> None:
        """A machine with room for one worker joins."""
        self._nodes[name] = self.cluster.add_node(num_cpus=1, host=self.hosts[name])

    def kill_node(self, name: str) -> None:
        """As a machine that is switched off; nothing where it is not there."""
        node = self._nodes.pop(name, None)
        if node is not None:
            self.cluster.kill_node(node)

    def node(self, name: str) -> subprocess.Popen[bytes]:
        """Its `ray start --block`."""
        return self._nodes[name]

    def only(self, *names: str) -> None:
        """These nodes and no others."""
        for name in NODES:
            up = name in self._nodes and self._nodes[name].poll() is None
            if not up or name not in names:
                self.kill_node(name)
        for name in names:
            if name not in self._nodes:
                self.start_node(name)

    def report(self, *words: str, cwd: Path) -> dict[str, Any]:
        """What a command says with --json, where it ends well."""
        with self.hosts[HEAD].entered():
            return cli.report(*words, cwd=cwd, env=self.environment)

    def run(self, *words: str, cwd: Path) -> cli.Running:
        """A command that goes on meanwhile."""
        with self.hosts[HEAD].entered():
            self._runs.append(cli.Running(*words, cwd=cwd, env=self.environment))
        return self._runs[-1]

    def end_runs(self) -> None:
        """Those that still go on, at once: Ray ends their workers."""
        for running in self._runs:
            if running.process.poll() is None:
                running.signal(signal.SIGKILL)
                running.end()
        self._runs.clear()

    def workers(self, name: str) -> list[int]:
        """Process ids of the Ray Train workers on a node."""
        return workers_below(self._nodes[name].pid)


@contextlib.contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """Storage with the emoji set in it, MLflow and a Ray head without room for workers; no node yet."""
    with contextlib.ExitStack() as open_things:
        why = why_not()
        network = None if why else open_things.enter_context(Network([HEAD, *NODES, STORAGE]))
        hosts = network.hosts if network is not None else dict.fromkeys([HEAD, *NODES, STORAGE], HERE)
        storage = hosts[STORAGE]
        with storage.entered():
            gateway = open_things.enter_context(run_gateway(folder / "gateway", ip=storage.ip))
            mlflow = open_things.enter_context(run_mlflow(folder / "mlflow", ip=storage.ip))
            gateway.upload(EMOJI, prefix="emoji", pattern="*.tar")
        nodes = {**ray_settings.NODES, **gateway.environment}
        if network is not None:
            nodes["GLOO_SOCKET_IFNAME"] = CABLE  # it would look for the address of the machine's name
        cluster = StandingCluster(folder / "ray", num_cpus=0, env=nodes, head=hosts[HEAD])
        site = Site(
            hosts=hosts,
            gateway=gateway,
            mlflow=mlflow,
            cluster=open_things.enter_context(cluster),
            environment={**gateway.environment, **cluster.environment},
            network=network,
            why_one_host=why,
        )
        url, s3 = f"s3://{gateway.bucket}/emoji", ("--endpoint-url", gateway.endpoint_url, "--addressing", "path")
        site.report("data", "index", url, *s3, cwd=folder)
        yield site
