"""Writes one of the archives, from what two ranks train. What is there already is not replaced."""

from __future__ import annotations

import argparse
import importlib
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from tests.contract import native, reshard
from tests.contract.older.archive import HERE, TRUTH
from tests.support.ranks import Ranks

WAYS = [reshard.Way(2, "fp32", 1), reshard.Way(2, "fp32", 2), reshard.Way(2, "bf16", 3)]


def main() -> None:
    """Train and save; the name of the archive is printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("writer", choices=["gen-dist", "deepspeed"])
    writer = parser.parse_args().writer
    target = HERE / f"{writer}-{importlib.import_module(writer.replace('-', '_')).__version__}.tar.xz"
    with tempfile.TemporaryDirectory() as name, Ranks(2) as ranks:
        folder = Path(name)
        save = reshard.write if writer == "gen-dist" else native.save
        for way, truth in ranks.run(save, WAYS, folder)[0].items():
            np.savez(folder / way / TRUTH, **truth)
        with tarfile.open(target, "x:xz") as archive:
            archive.add(folder, arcname=".")
    print(target)


if __name__ == "__main__":
    main()
