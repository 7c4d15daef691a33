"""The JPEGs of tars in a peer's own format: `python -m tests.speed.stream.convert PEER TARS FOLDER`.

Runs in the environment of the peer, litdata or mosaic. Both keep the bytes of each JPEG, in the order of the tars.
"""

from __future__ import annotations

import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

SHARD_BYTES = 1 << 24  # both fetch a whole one before its first sample: their own 64 MB would delay a cold start


def jpegs(tar: str) -> Iterator[bytes]:
    with tarfile.open(tar) as members:
        files = (members.extractfile(member) for member in members if member.name.endswith(".jpg"))
        yield from (file.read() for file in files if file is not None)


def to_litdata(tars: list[str], folder: str) -> None:
    import litdata

    litdata.optimize(jpegs, inputs=tars, output_dir=folder, chunk_bytes=SHARD_BYTES, num_workers=1, reorder_files=False)


def to_mosaic(tars: list[str], folder: str) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=folder, columns={"image": "bytes"}, size_limit=SHARD_BYTES) as writer:
        for tar in tars:
            for jpeg in jpegs(tar):
                writer.write({"image": jpeg})


if __name__ == "__main__":
    peer, tars, folder = sys.argv[1:]
    {"litdata": to_litdata, "mosaic": to_mosaic}[peer](sorted(map(str, Path(tars).glob("*.tar"))), folder)
