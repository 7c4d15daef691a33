"""Canary secrets: planted in the environment and in addresses, found in nothing that a run, its record or its registry
leave behind, nor in what they say.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import PROGRAM, ROOT
from tests.support.mlflow_server import run_mlflow

TOKEN, S3_PASSWORD = "canary0token0of0the0tracker", "canary0password0of0the0store"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "CANARY0ACCESS0KEY",
    "AWS_SECRET_ACCESS_KEY": "canary0secret0key",
    "AWS_SESSION_TOKEN": "canary0session0token",
    "MLFLOW_TRACKING_USERNAME": "canary0user",
    "MLFLOW_TRACKING_PASSWORD": "canary0tracking0password",
    "HF_TOKEN": "canary0token0of0the0hub",
}
CANARIES = [TOKEN, S3_PASSWORD, *ENVIRONMENT.values()]
CODED = [base64.b64encode(f"ann:{TOKEN}".encode()), base64.b64encode(b"canary0user:canary0tracking0password")]
LONGEST_S = 700.0  # of one program, on a busy machine
JOB = f"""
name = "canary"
recipe = "ddpm"
[model]
image_px = 16
channels = [16, 16]
timesteps = 100
sample_steps = 5
[data]
url = "embedded://emoji"
train = "train-*.tar"
heldout = "heldout-*.tar"
s3.endpoint_url = "https://ann:{S3_PASSWORD}@store.example.org"
[train]
total_images = 128
global_batch_images = 32
micro_batch_images = 16
sample_every_images = 64
checkpoint_every_images = 64
[registry]
sample_grid = true
at_most = {{"heldout/noise" = 1e9}}
s3.endpoint_url = "https://ann:{S3_PASSWORD}@store.example.org"
[tracking]
uri = "SERVER"
"""


@pytest.fixture
def sessions() -> Iterator[Path]:
    """Where Ray keeps its sessions with their logs: a short path, for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="gd", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
@pytest.mark.timeout(1800)  # a whole run, a server and five programs
def test_planted_secrets_are_found_nowhere(tmp_path: Path, sessions: Path) -> None:
    (tmp_path / "server").mkdir()
    home = tmp_path / "home"
    home.mkdir()
    with run_mlflow(tmp_path / "server") as address:
        uri = address.replace("http://", f"http://ann:{TOKEN}@")
        (tmp_path / "job.toml").write_text(JOB.replace("SERVER", uri))  # the person's own file, which holds them
        told = said(home, sessions, uri)
    assert "canary/1" in told
    left = [path for folder in (home, sessions, tmp_path / "server") for path in folder.rglob("*") if path.is_file()]
    for wanted in ("000001.jsonl", "canary.json", "server.db", "server.log", "MLmodel", "job.resolved.json"):
        assert wanted in {path.name for path in left}
    assert [path for path in left if "session_" in str(path) and path.suffix == ".log"]
    texts = {str(path): path.read_bytes() for path in left} | {"what was said": told.encode()}
    found = {
        f"{place}: {canary!r}"
        for place, text in texts.items()
        for canary in (*(name.encode() for name in CANARIES), *CODED)
        if canary in text
    }
    assert not found
    assert subprocess.run(["git", "grep", "-q", S3_PASSWORD, "--", "gen_dist"], cwd=ROOT, check=False).returncode == 1


def said(home: Path, sessions: Path, uri: str) -> str:
    """All that the program says on its way from a job to a champion, and where nobody answers."""
    environment = {**ENVIRONMENT, "RAY_TMPDIR": str(sessions), "XDG_CACHE_HOME": str(home / "cache")}
    where = ["--tracking-uri", uri]
    lines = []
    for words, code in (
        (["train", str(home.parent / "job.toml")], 0),
        (["models", "promote", "canary/1", "--why", f"as {uri} says", *where], 0),
        (["models", "show", "canary", "--json", *where], 0),
        (["models", "history", "canary", *where], 0),
        (["models", "show", "canary", "--tracking-uri", f"http://ann:{TOKEN}@127.0.0.1:1"], 2),
    ):
        done = subprocess.run(
            [str(PROGRAM), *words],
            cwd=home,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        lines.append(done.stdout + done.stderr)
        assert done.returncode == code, lines[-1]
    return "\n".join(lines)
