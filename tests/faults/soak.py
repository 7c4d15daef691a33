"""soak: one run among random faults for an hour or more, and a report of what it lost.

    python -m tests.faults.soak --minutes 75 --report tests/faults/soak.md

Two workers train the small DCGAN of jobs/smoke. Checkpoints go to a real S3 server behind our proxy, which makes small
faults all the time, and metrics to a real MLflow server. Every minute or two something breaks: a worker or the driver
is killed, a worker is stopped, the run is asked to end, the store or MLflow is away for a while. Where the driver ends,
the same command is started again. In the end the run is finished; the exit code is 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from tests.support import cli
from tests.support.fault_proxy import FaultProxy, Plan, run_fault_proxy
from tests.support.gateway import run_gateway
from tests.support.mlflow_server import START_S, answers, curve_of, runs_of, serve
from tests.support.run_faults import events, settings, wait_for

JOB = str(cli.ROOT / "jobs" / "smoke" / "dcgan.toml")
NAME = "smoke-dcgan"
KEY = "rate/generator"  # in every line of the log
LOG_IMAGES, CHECKPOINT_IMAGES, SAMPLE_IMAGES = 800, 4_000, 40_000
AFTER_IMAGES = 2 * CHECKPOINT_IMAGES  # learned after one fault before the next
ROUGH = {"refuse": 0.02, "cut": 0.02, "reset": 0.02, "slow": 0.02, "lose": 0.01}
AWAY_S = (20.0, 60.0)
QUIET_S = (5.0, 40.0)
KINDS = ("kill worker", "stop worker", "kill driver", "SIGTERM", "no MLflow", "no store")


@dataclass
class Soak:
    """The run and what surrounds it."""

    folder: Path
    proxy: FaultProxy
    environment: Mapping[str, str]
    port: int
    random: random.Random
    faults: list[dict[str, Any]] = field(default_factory=list)
    running: cli.Running | None = None
    mlflow: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "runs" / NAME / "wal"

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def words(self, total_images: int) -> list[str]:
        """The command, always the same but for the length."""
        keys = {
            "train__total_images": total_images,
            "train__log_every_images": LOG_IMAGES,
            "train__checkpoint_every_images": CHECKPOINT_IMAGES,
            "train__sample_every_images": SAMPLE_IMAGES,
            "run__checkpoints": f"s3://{self.proxy.gateway.bucket}/runs",
            "run__s3__endpoint_url": self.proxy.endpoint_url,
            "run__s3__addressing": "path",
            "run__hang_after_s": 15,
            "tracking__uri": self.uri,
        }
        return ["train", JOB, *settings(**keys)]

    def begin(self) -> None:
        """Start the run, or go on with it."""
        self.running = cli.Running(*self.words(1 << 40), cwd=self.folder, env=self.environment)

    def serve(self) -> None:
        """Start MLflow, at the same address every time."""
        self.mlflow = serve(self.folder / "mlflow", self.port)

    def reached(self) -> int:
        """Images of the last line of the log."""
        return max([0, *(event.get("images", 0) for event in cli.read_events(self.log)[-50:])])

    def committed(self) -> int:
        """Images of the newest checkpoint that the run said is committed."""
        return max([0, *(event["images"] for event in events(self.log, "checkpoint"))])

    def hit(self, kind: str) -> None:
        """One fault, until the run has learned from so many images again."""
        assert self.running is not None
        before, began_s = self.committed(), time.monotonic()
        if kind in ("kill worker", "stop worker"):
            workers = wait_for(self.running.workers, "worker", running=self.running)
            os.kill(self.random.choice(workers), signal.SIGKILL if kind == "kill worker" else signal.SIGSTOP)
        elif kind in ("kill driver", "SIGTERM"):
            self.running.signal(signal.SIGKILL if kind == "kill driver" else signal.SIGTERM)
            self.running.end()
            self.begin()
        elif kind == "no MLflow":
            assert self.mlflow is not None
            self.mlflow.kill()
            self.mlflow.wait()
            time.sleep(self.random.uniform(*AWAY_S))
            self.serve()
        else:
            self.proxy.plan = Plan(refuse=1.0)
            time.sleep(self.random.uniform(*AWAY_S))
            self.proxy.plan = Plan(**ROUGH)
        wait_for(lambda: self.committed() >= before + AFTER_IMAGES, "checkpoints", running=self.running)
        self.faults.append({"kind": kind, "images": before, "seconds": round(time.monotonic() - began_s, 1)})
        print(f"{len(self.faults)}: {self.faults[-1]}", flush=True)

    def finish(self) -> dict[str, Any]:
        """End the run where it stands and what is left of its work; what `train --json` says."""
        assert self.running is not None
        self.running.signal(signal.SIGTERM)
        self.running.end()
        end = (self.reached() // LOG_IMAGES + 2) * LOG_IMAGES
        done = cli.report(*self.words(end), cwd=self.folder, env=self.environment)
        cli.report("track", f"runs/{NAME}", cwd=self.folder, env=self.environment)
        return done


def judge(soak: Soak, done: Mapping[str, Any]) -> dict[str, Any]:
    """What was lost, by the log, by MLflow and by the audit of samples."""
    lost_commits, committed, skipped = 0, 0, 0
    for event in events(soak.log, "start", "checkpoint", "crash_loop", "rollback"):
        if event["kind"] == "checkpoint":
            committed, skipped = max(committed, event["images"]), 0
        elif event["kind"] == "start":
            lost_commits += event["images"] < committed and not skipped
        else:
            skipped = 1  # it goes back on purpose
    client = MlflowClient(soak.uri)
    curve = runs_of(client, NAME)["history-1"]
    seen = Counter(step for step, _, _ in curve_of(client, curve, KEY))
    wanted = set(range(LOG_IMAGES, done["images"] + 1, LOG_IMAGES))
    seconds: dict[str, float] = done["goodput_s"]
    deaths = events(soak.log, "death")
    audit = cli.report("data", "audit", f"runs/{NAME}", cwd=soak.folder, env=soak.environment)
    return {
        "minutes of the run": round(sum(seconds.values()) / 60, 1),
        "images": done["images"],
        "faults": dict(Counter(fault["kind"] for fault in soak.faults)),
        "small faults of the store": {kind: soak.proxy.counts[kind] for kind in ROUGH if soak.proxy.counts[kind]},
        "worker groups": len(events(soak.log, "start")),
        "deaths": len(deaths),
        "checkpoints committed": len(events(soak.log, "checkpoint")),
        "lost commits": lost_commits,
        "metric points": len(wanted),
        "lost metric points": len(wanted - seen.keys()),
        "doubled metric points": sum(count - 1 for count in seen.values()),
        "every sample once an epoch": audit["holds"],
        "goodput": round(seconds["training"] / sum(seconds.values()), 3),
        "seconds by cause": {cause: round(value, 1) for cause, value in seconds.items()},
    }


def report(found: Mapping[str, Any], faults: Sequence[Mapping[str, Any]], *, seed: int) -> str:
    """As Markdown."""
    cores = len(os.sched_getaffinity(0))
    lines = ["# Soak: what a run lost among random faults", ""]
    lines += [f"Written by `python -m tests.faults.soak --seed {seed}` on {cores} CPU cores, two workers.", ""]
    lines += ["| what | found |", "| --- | --- |"]
    for name, value in found.items():
        text = ", ".join(f"{key} {number}" for key, number in value.items()) if isinstance(value, dict) else value
        lines.append(f"| {name} | {text} |")
    lines += [
        "",
        "Seconds until two more checkpoints were committed, an outage of the store or of MLflow included:",
        "",
    ]
    lines += ["| fault | times | shortest | longest |", "| --- | --- | --- | --- |"]
    for kind in KINDS:
        took = [fault["seconds"] for fault in faults if fault["kind"] == kind]
        if took:
            lines.append(f"| {kind} | {len(took)} | {min(took)} | {max(took)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """0 where nothing was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=75.0, help="how long faults are made")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--report", type=Path, help="file for the report")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gen-dist-soak-")))
        gateway = stack.enter_context(run_gateway(folder / "gateway"))
        proxy = stack.enter_context(run_fault_proxy(gateway, **ROUGH))
        proxy.conditional = True
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        soak = Soak(folder, proxy, gateway.environment, port, random.Random(options.seed))
        try:
            soak.serve()
            wait_for(lambda: answers(port), "MLflow")
            end_s = time.monotonic() + 60.0 * options.minutes
            soak.begin()
            wait_for(lambda: soak.committed() > 0, "checkpoint", running=soak.running)
            order: list[str] = []
            while time.monotonic() < end_s:
                order = order or soak.random.sample(KINDS, len(KINDS))  # all kinds, in another order each time
                soak.hit(order.pop())
                time.sleep(soak.random.uniform(*QUIET_S))
            found = judge(soak, soak.finish())
        finally:
            for process in (soak.running and soak.running.process, soak.mlflow):
                if process is not None and process.poll() is None:
                    with suppress(OSError):
                        process.terminate()
                        process.wait(START_S)
    print(json.dumps(found, indent=2))
    if options.report is not None:
        options.report.write_text(report(found, soak.faults, seed=options.seed), encoding="utf-8")
    lost = found["lost commits"] + found["lost metric points"] + found["doubled metric points"]
    return int(bool(lost) or not found["every sample once an epoch"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
