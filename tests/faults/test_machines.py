"""A machine that is switched off, and a cluster without room: T6. A standing Ray of two machines, all on this one."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from gen_dist.train import ray_settings
from tests.support import cli
from tests.support.ray_cluster import StandingCluster, descendants, workers_below
from tests.support.run_faults import events, learned, settings, wait_for

DCGAN = str(cli.ROOT / "jobs" / "smoke" / "dcgan.toml")
RUN = Path("runs") / "smoke-dcgan"
GRACE_S = 30.0  # the shortest that clouds give, and Ray where nothing else is said

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("nothing_left")]


def test_a_run_waits_for_room_when_a_machine_is_gone_and_says_so_and_goes_on_or_gives_up(tmp_path: Path) -> None:
    with StandingCluster(tmp_path / "cluster", num_cpus=1, env=ray_settings.NODES) as cluster:
        other = cluster.add_node(num_cpus=1)
        keys = {
            "cluster__address": cluster.address,
            "tracking__uri": "http://127.0.0.1:1",
            "train__total_images": 1_000_000,
            "run__max_failures": 0,  # a lost machine is no failure
        }
        running = cli.Running("train", DCGAN, *settings(**keys), cwd=tmp_path, env=cluster.environment)
        log = tmp_path / RUN / "wal"
        running.wait_for_images(log, 320)
        cluster.kill_node(other)
        (waiting,) = wait_for(lambda: events(log, "waiting")[:1], "alert", running=running)
        assert "2 x 1 CPU asked, the cluster has 1 node(s) with 1 CPU" in waiting["text"]
        assert 30 <= waiting["for_s"] < 60
        cluster.add_node(num_cpus=1)
        starts = wait_for(
            lambda: (found := events(log, "start")) and len(found) == 2 and found, "second start", running=running
        )
        assert starts[1]["images"] >= 320 - 160
        wait_for(lambda: learned(log, group=2, images=160), "steps of the second group", running=running)
        running.signal(signal.SIGTERM)
        code, output = running.end()
        assert code == 128 + signal.SIGTERM, output
        (death,) = events(log, "death")
        assert death["node_lost"]
        assert "waiting" in output
        assert "idle" in output, "the ledger of goodput"

        keys |= {"run__max_wait_s": 35, "cluster__num_workers": 4, "train__micro_batch_images": 2}
        done = cli.run("train", DCGAN, *settings(**keys), cwd=tmp_path, env=cluster.environment)
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        for part in ("no room for the workers", "4 x 1 CPU asked", "2 CPU", "lower cluster.num_workers"):
            assert part in line


def test_a_machine_whose_raylet_alone_dies_leaves_no_worker_that_writes(tmp_path: Path) -> None:
    """T6: Ray gives the machine up, though its processes may live on."""
    with StandingCluster(tmp_path / "cluster", num_cpus=1, env=ray_settings.NODES) as cluster:
        machines = [cluster.add_node(num_cpus=1) for _ in range(2)]
        keys = {
            "cluster__address": cluster.address,
            "tracking__uri": "http://127.0.0.1:1",
            "train__total_images": 1_000_000,
            "run__max_failures": 0,
        }
        running = cli.Running("train", DCGAN, *settings(**keys), cwd=tmp_path, env=cluster.environment)
        log = tmp_path / RUN / "wal"
        running.wait_for_images(log, 320)
        # two workers, and the head has room for one
        other = next(machine for machine in machines if workers_below(machine.pid))
        workers = [psutil.Process(pid) for pid in workers_below(other.pid)]
        next(found for found in map(psutil.Process, descendants(other.pid)) if found.name() == "raylet").kill()
        wait_for(lambda: len(events(log, "start")) == 2, "second start", running=running)
        wait_for(lambda: learned(log, group=2, images=320), "steps of the second group", running=running)
        assert not [process for process in workers if process.is_running()]
        (death,) = events(log, "death")
        assert death["node_lost"]
        running.signal(signal.SIGTERM)
        code, output = running.end()
        assert code == 128 + signal.SIGTERM, output


def start_elastic(cluster: StandingCluster, folder: Path) -> cli.Running:
    """A long run of one worker or two, which saves only when it is told to, and survives no failure."""
    keys = {
        "cluster__address": cluster.address,
        "cluster__num_workers": "[1, 2]",
        "tracking__uri": "http://127.0.0.1:1",
        "train__total_images": 1_000_000,
        "train__checkpoint_every_images": 900_000,  # none comes by itself
        "train__sample_every_images": 0,
        "run__max_failures": 0,
    }
    return cli.Running("train", DCGAN, *settings(**keys), cwd=folder, env=cluster.environment)


def test_a_run_grows_with_its_cluster_from_a_checkpoint_of_the_moment_and_shrinks_with_it(tmp_path: Path) -> None:
    with StandingCluster(tmp_path / "cluster", num_cpus=1, env=ray_settings.NODES) as cluster:
        running = start_elastic(cluster, tmp_path)
        log = tmp_path / RUN / "wal"
        running.wait_for_images(log, 160)
        other = cluster.add_node(num_cpus=1)

        def started(count: int) -> list[dict[str, Any]]:
            found = events(log, "start")
            return found if len(found) >= count else []

        grown = wait_for(lambda: started(2), "larger group", running=running)
        (notice,) = events(log, "notice")
        assert "resized" in notice["why"]
        assert [start["workers"] for start in grown] == [1, 2]
        assert grown[1]["images"] == notice["images"], "no step is lost"
        assert not events(log, "death")

        wait_for(lambda: learned(log, group=2, images=160), "steps of the larger group", running=running)
        cluster.kill_node(other)
        shrunk = wait_for(lambda: started(3), "smaller group", running=running)
        assert shrunk[2]["workers"] == 1
        assert shrunk[2]["images"] == notice["images"]
        (death,) = events(log, "death")
        assert death["node_lost"]
        running.signal(signal.SIGTERM)
        code, output = running.end()
        assert code == 128 + signal.SIGTERM, output


def test_a_machine_that_is_told_to_end_has_a_checkpoint_written_first_and_counts_for_nothing(tmp_path: Path) -> None:
    """As a spot machine whose `ray start --block` gets SIGTERM: Ray gives it a while, and then ends what runs there."""
    with StandingCluster(tmp_path / "cluster", num_cpus=1, env=ray_settings.NODES) as cluster:
        other = cluster.add_node(num_cpus=1, env={"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": f"{2 * GRACE_S:g}"})
        running = start_elastic(cluster, tmp_path)
        log = tmp_path / RUN / "wal"
        running.wait_for_images(log, 160)
        told_s = time.time()
        other.send_signal(signal.SIGTERM)
        (kept, *_) = wait_for(lambda: events(log, "checkpoint"), "checkpoint", running=running)
        assert kept["at_s"] - told_s < GRACE_S, "inside the time that the machine has"
        (notice, *_) = events(log, "notice")
        assert re.search(r"the machine of rank [01] is taken away in \d+ s", notice["why"])
        running.wait_for_images(log, kept["images"] + 160)
        assert other.poll() is None, "it goes on while the machine is there"

        wait_for(lambda: other.poll() is not None, "end of the machine", running=running)
        wait_for(lambda: learned(log, group=2, images=160), "steps of the smaller group", running=running)
        starts = events(log, "start")
        assert [start["workers"] for start in starts] == [2, 1]
        assert starts[1]["images"] == kept["images"]
        assert all(death["node_lost"] for death in events(log, "death")), "no failure of the run"
        running.signal(signal.SIGTERM)
        code, output = running.end()
        assert code == 128 + signal.SIGTERM, output
