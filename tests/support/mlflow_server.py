"""A real MLflow server on this machine for as long as a test needs it: SQLite behind it, artifacts through it."""

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

START_S = 250.0


@contextmanager
def run_server(folder: Path) -> Iterator[str]:
    """Its address. `folder` gets server.db, store/ with the artifacts, and server.log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    call += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/store"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # several processes that nothing here needs
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(call, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                assert time.monotonic() < deadline_s
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
