"""Writes shards of drawn shapes: the same images for the same arguments.

    python -m gen_dist.data.shapes.build shards/shapes
    python -m gen_dist.data.shapes.build shards/shapes-shuffled --shuffle-captions

A sample is KEY.png, KEY.txt (the caption) and KEY.json (the number of each attribute's value, in the order of
`scene.ATTRIBUTES`). With --shuffle-captions every image of the training shards has the caption of another: who learns
from them must not learn to read, and a model that seems to all the same shows that its score is wrong.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import webdataset

from gen_dist.data.shapes.scene import draw, pick

SHARD_SAMPLES = 2_000


def write(
    folder: Path, prefix: str, count: int, *, seed: int, side_px: int = 64, shuffle_captions: bool = False
) -> list[Path]:
    """`count` samples as `folder/prefix-00000.tar` and on; image i is a function of (seed, prefix, i)."""
    folder.mkdir(parents=True, exist_ok=True)
    words = np.random.SeedSequence([seed, *prefix.encode()])
    children = words.spawn(count + 1)
    randoms = [np.random.Generator(np.random.Philox(child)) for child in children[:count]]
    scenes = [pick(random) for random in randoms]
    captions = [scene.caption for scene in scenes]
    if shuffle_captions:
        others = np.random.Generator(np.random.Philox(children[count])).permutation(count)
        captions = [captions[other] for other in others]
    paths = []
    for number, start in enumerate(range(0, count, SHARD_SAMPLES)):
        paths.append(folder / f"{prefix}-{number:05d}.tar")
        with webdataset.TarWriter(str(paths[-1]), encoder=False, mtime=0) as shard:
            for at in range(start, min(start + SHARD_SAMPLES, count)):
                png = io.BytesIO()
                draw(scenes[at], randoms[at], side_px=side_px).save(png, "png")
                members = {"png": png.getvalue(), "txt": captions[at].encode()}
                shard.write({"__key__": f"{at:07d}", **members, "json": json.dumps(scenes[at].labels).encode()})
    return paths


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes train-*.tar and heldout-*.tar; exit status 1 where the folder holds shards already."""
    parser = argparse.ArgumentParser(
        prog="python -m gen_dist.data.shapes.build", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="where the shards go")
    parser.add_argument("--train", type=int, default=20_000, help="images to train on (default: %(default)s)")
    parser.add_argument("--heldout", type=int, default=2_000, help="images to measure on (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, metavar="PX", help="of the images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other images (default: %(default)s)")
    parser.add_argument(
        "--shuffle-captions", action="store_true", help="of train-*.tar: a control that must not learn to read"
    )
    options = parser.parse_args(arguments)
    if there := sorted(options.folder.glob("*.tar")):
        print(f"{there[0]}: is there already; remove it, or name another folder", file=sys.stderr)
        return 1
    common = {"seed": options.seed, "side_px": options.side}
    paths = write(options.folder, "train", options.train, shuffle_captions=options.shuffle_captions, **common)
    paths += write(options.folder, "heldout", options.heldout, **common)
    for path in paths:
        print(f"{path}: {path.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
