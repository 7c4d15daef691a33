"""The environment of litdata and mosaicml-streaming: made on first use, outside the project's own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

WHERE = "GEN_DIST_PEERS"
# Without their dependencies: what they share with us they take from our environment, and the sizes of torch twice,
# of torchvision and of the clients of stores that nobody reads here stay away. The rest are what they import.
PINS = (
    "litdata==0.2.76",
    "obstore==0.12.1",
    "lightning-utilities==0.15.3",
    "mosaicml-streaming==0.13.0",
    "brotli==1.2.1",
    "catalogue==2.0.10",
    "cramjam==2.14.0",
    "python-snappy==0.7.3",
    "xxhash==4.1.0",
    "zstd==1.5.7.2",
)
# mosaicml-streaming imports these names for data sets that are not read here.
TORCHVISION = {
    "__init__.py": "",
    "datasets.py": "VisionDataset = CIFAR10 = object\n",
    "transforms/__init__.py": "",
    "transforms/functional.py": "to_tensor = None\n",
}


def peers_python() -> Path:
    """The interpreter of the peers' environment, which is made if it is not there. Raises: CalledProcessError."""
    ours = sysconfig.get_path("purelib")
    digest = hashlib.sha256(repr((PINS, TORCHVISION, ours, sys.version)).encode()).hexdigest()[:12]
    root = Path(os.environ.get(WHERE) or Path.home() / ".cache" / "gen-dist-peers")
    root.mkdir(parents=True, exist_ok=True)
    folder = root / digest
    python, complete = folder / "bin" / "python", folder / "complete"
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two benchmarks may start at once
        if not complete.exists():
            print(f"making the peers' environment in {folder}", file=sys.stderr)
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PINS], check=True)
            packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
            (packages / "ours.pth").write_text(f"{ours}\n")  # after its own: torch, numpy, boto3 and the decoder
            for name, text in TORCHVISION.items():
                (packages / "torchvision" / name).parent.mkdir(parents=True, exist_ok=True)
                (packages / "torchvision" / name).write_text(text)
            complete.touch()
    return python
