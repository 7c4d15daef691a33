"""Where the sides meet: a real S3 server that holds the shards, their index, and what the peers made of them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.speed.stream.convert import SHARD_BYTES
from tests.speed.stream.peers import PEERS
from tests.speed.stream.shards import Shards
from tests.support.gateway import Gateway, run_gateway

ROOT = Path(__file__).resolve().parents[3]
CONVERTED = ("litdata", "mosaic")
"""Readers with a format of their own, who live in the peers' environment. All others read the tars."""

LITDATA_SCRATCH = ("DATA_OPTIMIZER_CACHE_FOLDER", "DATA_OPTIMIZER_DATA_CACHE_FOLDER")
"""Where it converts; else folders of no benchmark's own."""


@dataclass(frozen=True)
class Bed:
    """A running server and what it holds."""

    gateway: Gateway
    shards: Shards

    def url(self, reader: str) -> str:
        """Where a reader finds what it reads."""
        return f"s3://{self.gateway.bucket}/{prefix_of(reader)}"

    def python(self, reader: str) -> Path:
        return PEERS.python() if reader in CONVERTED else Path(sys.executable)

    @property
    def environment(self) -> dict[str, str]:
        """Of every process that reads; nobody asks a store outside this machine for anything."""
        scratch = {name: f"{tempfile.gettempdir()}/gen-dist-speed/litdata" for name in LITDATA_SCRATCH}
        return {**os.environ, **self.gateway.environment, **scratch, "S3_ENDPOINT_URL": self.gateway.endpoint_url}


def prefix_of(reader: str) -> str:
    """Another size of a peer's files is kept beside the first."""
    return f"{reader}-{SHARD_BYTES >> 20}m" if reader in CONVERTED else "tars"


@contextmanager
def run_bed(shards: Shards, *, readers: Sequence[str]) -> Iterator[Bed]:
    """What these readers need, made where it was not kept from an earlier run, below the folder for temporary files."""
    folder = Path(tempfile.gettempdir()) / "gen-dist-speed" / shards.name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a server a folder
        with run_gateway(folder / "gateway") as gateway:
            bed, tars = Bed(gateway, shards), folder / "tars"
            for reader in ("ours", *(reader for reader in readers if reader in CONVERTED)):
                _once(folder / f"{prefix_of(reader)}.made", partial(_fill, bed, reader, folder))
            _once(folder / f"index-{_index_version()}.made", partial(_index, bed))
            shutil.rmtree(tars, ignore_errors=True)
            yield bed


def _once(marker: Path, make: Callable[[], None]) -> None:
    if not marker.exists():
        make()
        marker.touch()


def _fill(bed: Bed, reader: str, folder: Path) -> None:
    tars, made = folder / "tars", folder / prefix_of(reader)
    shutil.rmtree(made, ignore_errors=True)
    print(f"making {bed.shards.name}/{made.name}", file=sys.stderr)
    if not tars.exists():
        bed.shards.write(tars)
    if reader in CONVERTED:
        command: list[str | Path] = [bed.python(reader), "-m", "tests.speed.stream.convert", reader, tars, made]
        subprocess.run(command, cwd=ROOT, env=bed.environment, check=True, stdout=sys.stderr)
    bed.gateway.upload(made, prefix=made.name)
    if made != tars:
        shutil.rmtree(made)


def _index(bed: Bed) -> None:
    command = [sys.executable, "-m", "gen_dist.cli", "data", "index", bed.url("ours"), "--again", "--workers", "1"]
    command += ["--endpoint-url", bed.gateway.endpoint_url, "--addressing", "path"]
    subprocess.run(command, cwd=ROOT, env=bed.environment, check=True, stdout=sys.stderr)


def _index_version() -> str:
    """Of the code that makes the index: what it made is used only as long as it is the same."""
    sources = sorted((ROOT / "gen_dist" / "data" / "index").glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
