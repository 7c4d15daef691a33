"""A job on several hosts: workers on two of them, data and checkpoints in a bucket and the record on a third."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from gen_dist.registry.find import find_model
from gen_dist.sample.trained import Trained
from tests.support import cli
from tests.support.hosts import PREFIX, Network, sweep, why_not
from tests.support.run_faults import events, learned, wait_for
from tests.support.site import HEAD, NODES, Site

DDPM = str(cli.ROOT / "jobs" / "smoke" / "ddpm.toml")
RUN = Path("runs") / "smoke-ddpm"
OPEN_AND_WAIT = """
import time
from tests.support.hosts import Network

network = Network(["one", "two"]).__enter__()
with network.hosts["one"].entered():
    import subprocess
    print(subprocess.Popen(["sleep", "1000"]).pid, flush=True)
time.sleep(1000)
"""

pytestmark = pytest.mark.timeout(1800)  # a starved machine takes five times as long as an idle one
needs_hosts = pytest.mark.skipif(bool(why_not()), reason=why_not() or "never")


def reached(ip: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((ip, port), timeout=1.0):
        return True
    return False


@needs_hosts
def test_hosts_reach_each_other_and_nobody_else_until_a_cable_is_cut() -> None:
    with Network(["one", "two"]) as network:
        one, two = network.hosts.values()
        with one.entered():
            server = socket.create_server((one.ip, 0))
            port = server.getsockname()[1]
            loopback = socket.create_server(("127.0.0.1", port))
        with server, loopback:
            assert not reached(one.ip, port), "from this machine's own network"
            with two.entered():
                assert wait_for(lambda: reached(one.ip, port), "the new cable")
                assert not reached("127.0.0.1", port), "a loopback of its own"
                network.cut(one)
                assert not reached(one.ip, port)
                network.mend(one)
                assert wait_for(lambda: reached(one.ip, port), "the mended cable")
                with pytest.raises(OSError, match="unreachable"):
                    socket.create_connection(("192.0.2.1", 9), timeout=5.0)  # any address of the world
    assert not {host.namespace for host in network.hosts.values()} & set(os.listdir("/run/netns"))


@needs_hosts
def test_hosts_of_a_killed_process_are_swept_with_all_that_runs_there() -> None:
    words = [sys.executable, "-c", OPEN_AND_WAIT]
    with subprocess.Popen(words, stdout=subprocess.PIPE, cwd=cli.ROOT, text=True) as opener:
        assert opener.stdout is not None
        inside = psutil.Process(int(opener.stdout.readline()))
        ours = f"{PREFIX}{opener.pid}-"
        sweep()
        assert len([name for name in os.listdir("/run/netns") if name.startswith(ours)]) == 3, "it lives"
        opener.kill()
    sweep()
    assert not [name for name in os.listdir("/run/netns") if name.startswith(ours)]
    assert wait_for(lambda: not inside.is_running() or inside.status() == psutil.STATUS_ZOMBIE, "the end of its sleep")


@pytest.mark.long
def test_a_job_runs_across_two_hosts_and_ends_as_a_registered_model(site: Site, tmp_path: Path) -> None:
    site.only(*NODES)
    running = site.run("train", DDPM, *site.keys(), cwd=tmp_path)
    wait_for(lambda: events(tmp_path / RUN / "wal", "start"), "start", running=running)
    assert [len(site.workers(name)) for name in NODES] == [1, 1], "one worker on each node"
    code, output = running.end()
    assert code == 0, output
    with site.hosts[HEAD].entered():
        found = find_model(str(tmp_path / RUN))
        assert isinstance(found, Trained)
        found.checkpoint.verify()
        (version,) = MlflowClient(site.mlflow).search_model_versions("name='smoke-ddpm'")
        run = MlflowClient(site.mlflow).get_run(version.run_id)
    assert found.place.startswith(f"s3://{site.gateway.bucket}/runs/smoke-ddpm/images-000000000320.a")
    assert found.checkpoint.manifest.images == 320
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss/denoiser/noise"] > 0
    assert not (tmp_path / RUN / "checkpoints").exists()


@pytest.mark.long
def test_a_cut_cable_is_a_lost_machine_and_what_comes_back_is_ended_and_writes_nothing(
    site: Site, tmp_path: Path
) -> None:
    """The machine itself lives on, without a word to anybody, and comes back as a zombie."""
    if site.network is None:
        pytest.skip(f"no cable to cut: {site.why_one_host}")
    site.only(*NODES)
    keys = {"name": "cut", "cluster__num_workers": "[1, 2]", "train__total_images": 1_000_000, "run__max_failures": 0}
    running = site.run("train", DDPM, *site.keys(**keys, train__sample_every_images=0), cwd=tmp_path)
    log = tmp_path / "runs" / "cut" / "wal"
    wait_for(lambda: len(events(log, "checkpoint")) >= 2, "checkpoints", running=running)
    lost = site.hosts["node-2"]
    zombies = [psutil.Process(pid) for pid in site.workers(lost.name)]
    assert len(zombies) == 1
    site.network.cut(lost)
    wait_for(lambda: learned(log, group=2, images=320), "steps of the smaller group", running=running)
    (death,) = events(log, "death")
    assert death["node_lost"]
    assert [start["workers"] for start in events(log, "start")] == [2, 1]
    site.network.mend(lost)
    wait_for(lambda: not any(zombie.is_running() for zombie in zombies), "end of the zombie", running=running)
    wait_for(lambda: site.node(lost.name).poll() is not None, "end of the zombie's Ray node", running=running)
    said = [(event["attempt"], event["kind"]) for event in events(log, "start", "checkpoint")]
    assert said == sorted(said, key=lambda one: one[0]), "the first group says nothing after the second began"

    site.kill_node(lost.name)
    site.start_node(lost.name)
    wait_for(lambda: len(events(log, "start")) == 3, "the machine to be used again", running=running)
    assert events(log, "start")[2]["workers"] == 2
    running.signal(signal.SIGTERM)
    code, output = running.end()
    assert code == 128 + signal.SIGTERM, output
    audit = site.report("data", "audit", "runs/cut", cwd=tmp_path)
    assert audit["holds"]


@pytest.mark.long
def test_the_doctor_names_the_hosts_that_do_not_reach_each_other(site: Site, tmp_path: Path) -> None:
    """Each of them reaches the head, and so the cluster is whole for Ray: a run would hang in its first reduction."""
    if site.network is None:
        pytest.skip(f"no routes of their own: {site.why_one_host}")
    site.only(*NODES)
    one, two = (site.hosts[name] for name in NODES)
    route = ["unreachable", f"{two.ip}/32"]
    with one.entered():
        subprocess.run(["ip", "route", "add", *route], check=True)
    try:
        with site.hosts[HEAD].entered():
            done = cli.run("doctor", DDPM, *site.keys(), "--json", cwd=tmp_path, env=site.environment)
    finally:
        with one.entered():
            subprocess.run(["ip", "route", "del", *route], check=True)
    assert done.returncode == 1, done.stdout + done.stderr
    found = {entry["check"]: entry for entry in json.loads(done.stdout)["checks"]}
    assert [name for name, entry in found.items() if entry["state"] == "wrong"] == ["network"]
    assert f"{one.ip} cannot reach {two.ip}: No route to host" in found["network"]["text"]
    assert "let the machines reach each other on all ports" in found["network"]["text"]
