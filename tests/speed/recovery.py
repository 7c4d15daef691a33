"""recovery: seconds from a fault to the next step, with our settings and watchdog, over those with Ray's defaults.

The same job and code on both sides, two workers over gloo on this machine; theirs has Ray's own values back in its
environment, no watchdog, no spares, and Ray's own policy of when a group grows and shrinks. Ours has trained for long
enough to have its spares. A crash is kill -9 of a worker, a hang
is SIGSTOP of one, and a lost node is kill -9 of all that runs on one of two machines of a standing Ray: a run of one or
two workers goes on with the other. The shortest time of some rounds counts, since other work on the machine can only
add to it; a hang of theirs takes eleven minutes and is made once.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gen_dist.train import ray_settings
from tests.speed.sides import Result
from tests.support import cli
from tests.support.ray_cluster import StandingCluster, workers_below
from tests.support.run_faults import events, settings, wait_for

JOB = str(cli.ROOT / "jobs" / "smoke" / "dcgan.toml")
LOG = Path("runs") / "smoke-dcgan" / "wal"
EVERY_IMAGES = 16  # a line in the log for every step
AFTER_IMAGES = 480  # learned from between two faults
LONGEST_S = 1500.0
RAYS_OWN = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "2.0",
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "600",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "30",
}
TINY_HEALTH_S = "20"  # in place of ten minutes
RAYS_OWN_POLICY = """
import sys
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from gen_dist.train import launch
launch.Elastic, launch.LOOK_EVERY_S = lambda config, sizes: ElasticScalingPolicy(config), 60.0
from gen_dist.cli.app import main
sys.exit(main())
"""
Strike = Callable[[cli.Running], None]


@dataclass(frozen=True)
class Fault:
    """One kind."""

    num_rounds: int
    most: float
    """The ratio that is wanted."""


FAULTS = {"crash": Fault(3, 0.6), "node": Fault(1, 0.35), "hang": Fault(1, 0.1)}


def run(*, only: str, tiny: bool) -> Result:
    """Measure the faults whose name begins with `only`; the ratio is that of the one furthest from what is wanted."""
    names = [name for name in FAULTS if name.startswith(only)]
    if not names:
        raise ValueError(f"--only {only}: no such fault; write the start of one of {', '.join(FAULTS)}")
    found = {name: _compare(name, tiny=tiny) for name in names}
    worst = max(found.values(), key=lambda case: case["ratio"] / case["wanted"])
    return Result(ratio=worst["ratio"], ours=worst["ours_s"], theirs=worst["theirs_s"], unit="s", cases=found)


def _compare(name: str, *, tiny: bool) -> dict[str, float]:
    fault = FAULTS[name]
    theirs = {**RAYS_OWN, **({"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": TINY_HEALTH_S} if tiny else {})}
    own_policy = (sys.executable, "-c", RAYS_OWN_POLICY)
    sides: dict[str, tuple[Sequence[str | Path], dict[str, str], dict[str, str], dict[str, object]]] = {
        "ours": ((cli.PROGRAM,), {}, ray_settings.NODES, {"run__hang_after_s": 5} if tiny else {}),
        "theirs": (own_policy, theirs, {}, {"run__hang_after_s": 0, "run__spares": "false"}),
    }
    times = {}
    for side, (program, env, nodes, keys) in sides.items():
        with _surroundings(name, nodes) as (strike, more, where):
            num_rounds = 1 if tiny else fault.num_rounds
            kind = {"env": {**env, **more}, "keys": {**keys, **where}}
            times[side] = _recoveries(strike, program=program, **kind, num_rounds=num_rounds)
    best = {side: min(seconds) for side, seconds in times.items()}
    slowest = {f"{side}_slowest_s": max(seconds) for side, seconds in times.items()}
    shown = {f"{side}_s": value for side, value in best.items()}
    return {"ratio": best["ours"] / best["theirs"], "wanted": fault.most, **shown, **slowest}


@contextmanager
def _surroundings(
    name: str, nodes: Mapping[str, str]
) -> Iterator[tuple[Strike, Mapping[str, str], Mapping[str, object]]]:
    """What makes the fault, and the environment and keys of a run that meets it."""
    if name != "node":
        number = signal.SIGKILL if name == "crash" else signal.SIGSTOP
        yield lambda running: os.kill(running.workers()[1], number), {}, {}
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        StandingCluster(Path(folder), num_cpus=1, env=nodes) as cluster,
    ):
        machine = cluster.add_node(num_cpus=1)

        def strike(_: cli.Running) -> None:
            give_up_s = time.monotonic() + LONGEST_S
            while not workers_below(machine.pid):  # a run that began with one worker will take it in
                assert time.monotonic() < give_up_s, "the run never came to the second machine"
                time.sleep(0.1)
            cluster.kill_node(machine)

        yield strike, cluster.environment, {"cluster__address": cluster.address, "cluster__num_workers": "[1, 2]"}


def _recoveries(
    strike: Strike,
    *,
    program: Sequence[str | Path],
    env: Mapping[str, str],
    keys: Mapping[str, object],
    num_rounds: int,
) -> list[float]:
    """Seconds to the next step after each of some faults of one run."""
    words = settings(
        **keys,
        train__total_images=1 << 40,
        train__log_every_images=EVERY_IMAGES,
        train__sample_every_images=0,
        run__max_failures=num_rounds + 1,
        tracking__uri="http://127.0.0.1:1",
    )
    found: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        running = cli.Running("train", JOB, *words, cwd=Path(folder), env=env, program=program)
        try:
            for number in range(num_rounds):
                _until(running, Path(folder) / LOG, starts=number + 1, images=AFTER_IMAGES)
                if "run__spares" not in keys:
                    _until_spared(running, Path(folder) / LOG, groups=number + 1)
                strike(running)
                hit_s, num_starts = time.time(), len(events(Path(folder) / LOG, "start"))
                went_on = _until(running, Path(folder) / LOG, starts=num_starts + 1, images=EVERY_IMAGES)
                assert went_on > hit_s
                found.append(went_on - hit_s)
        finally:
            for _ in range(2):  # the second one ends it at once
                running.signal(signal.SIGTERM)
                time.sleep(1.0)
            running.end()
    return found


def _until_spared(running: cli.Running, log: Path, *, groups: int) -> None:
    """Wait until so many groups have had spares, which they ask for once they have trained for a while."""
    wait_for(lambda: len(events(log, "spares")) >= groups, "spare processes", running=running)


def _until(running: cli.Running, log: Path, *, starts: int, images: int) -> float:
    """When (Unix time) the group that started as the `starts`-th had learned from so many images."""
    give_up_s = time.monotonic() + LONGEST_S
    while time.monotonic() < give_up_s:
        said = events(log, "start", "metrics")
        places = [number for number, event in enumerate(said) if event["kind"] == "start"]
        if len(places) >= starts:
            group: Sequence[Mapping[str, float]] = said[places[starts - 1] :]
            done = [event for event in group[1:] if event["images"] >= group[0]["images"] + images]
            if done:
                return done[0]["at_s"]
        if running.process.poll() is not None:
            raise AssertionError(f"ended early: {running.end()}")
        time.sleep(0.1)
    raise AssertionError(f"no step {starts} within {LONGEST_S:.0f} s")
