"""Environments of those we are compared with: made on first use, outside the project's own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WHERE = "GEN_DIST_PEERS"


@dataclass(frozen=True)
class Peers:
    """An environment. What it shares with us, such as torch, it takes from ours."""

    pins: tuple[str, ...]
    """Installed without their dependencies, so they name those that are imported and that we do not have."""
    stubs: Mapping[str, str]
    """Modules by file name that hold no more than the names that are imported, for parts that are not timed."""

    def python(self) -> Path:
        """Its interpreter; it is made if it is not there. Raises: CalledProcessError."""
        ours = sysconfig.get_path("purelib")
        said = repr((self.pins, dict(self.stubs), ours, sys.version))
        root = Path(os.environ.get(WHERE) or Path.home() / ".cache" / "gen-dist-peers")
        root.mkdir(parents=True, exist_ok=True)
        folder = root / hashlib.sha256(said.encode()).hexdigest()[:12]
        python, complete = folder / "bin" / "python", folder / "complete"
        with (root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two benchmarks may start at once
            if not complete.exists():
                print(f"making the peers' environment in {folder}", file=sys.stderr)
                shutil.rmtree(folder, ignore_errors=True)
                venv.create(folder, with_pip=True)
                subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *self.pins], check=True)
                packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
                (packages / "ours.pth").write_text(f"{ours}\n")  # after its own
                for name, text in self.stubs.items():
                    (packages / name).parent.mkdir(parents=True, exist_ok=True)
                    (packages / name).write_text(text)
                complete.touch()
        return python
