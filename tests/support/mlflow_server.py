"""A real MLflow server on this machine for as long as a test needs it, and what one finds in it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from tests.support.mlflow_tables import put_tables

START_S = 400.0


@contextmanager
def run_mlflow(folder: Path, *, ip: str = "127.0.0.1") -> Iterator[str]:
    """Start a server that keeps everything below `folder`; its address. It is ended afterwards.

    It listens at `ip`, of the network in which the caller is (`tests.support.hosts`).
    """
    with socket.socket() as free:
        free.bind((ip, 0))
        port = free.getsockname()[1]
    process = serve(folder, port, ip=ip)
    try:
        deadline_s = time.monotonic() + START_S
        while not answers(port, ip=ip):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline_s
            time.sleep(0.3)
        yield f"http://{ip}:{port}"
    finally:
        process.terminate()
        process.wait(30)


def serve(folder: Path, port: int, *, ip: str = "127.0.0.1") -> subprocess.Popen[bytes]:
    """Start a server, which does not answer at once. What an earlier one kept in `folder` is there again."""
    folder.mkdir(parents=True, exist_ok=True)
    call = [sys.executable, "-m", "mlflow", "server", "--host", ip, "--port", str(port), "--workers", "1"]
    call += [
        "--backend-store-uri",
        f"sqlite:///{put_tables(folder / 'server.db')}",
        "--artifacts-destination",
        f"{folder}/store",
    ]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # several processes that nothing here needs
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(call, cwd=folder, env=env, stdout=log, stderr=log)


def answers(port: int, *, ip: str = "127.0.0.1") -> bool:
    """Whether a server is there."""
    try:
        urllib.request.urlopen(f"http://{ip}:{port}/health", timeout=2).read()
    except OSError:
        return False
    return True


def runs_of(client: MlflowClient, name: str, *, experiment: str = "gen-dist") -> dict[str, Run]:
    """The runs of one job by what they are: `history-1`, `attempt-000001`, ... Fails where one is there twice."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], max_results=1_000)
    curves = [run for run in runs if run.info.run_name == name]
    logs = {run.data.tags["gen_dist.log"] for run in curves}
    assert len(logs) <= 1, f"{len(logs)} logs"
    ours = [run for run in runs if run.data.tags.get("gen_dist.log") in logs]
    assert len({run.data.tags["gen_dist.run"] for run in ours}) == len(ours), "a run is there twice"
    return {run.data.tags["gen_dist.run"]: run for run in ours}


def curve_of(client: MlflowClient, run: Run, key: str) -> list[tuple[int, float, int]]:
    """(step, value, time in ms) of each point, in the order of steps."""
    points = client.get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value, point.timestamp) for point in points)
