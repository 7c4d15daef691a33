"""Builds the emoji shards of this folder from the npm package emoji-datasource-google, the same bytes every time.

    npm pack emoji-datasource-google@16.0.0
    python -m gen_dist.data.emoji.build --package emoji-datasource-google-16.0.0.tgz --check

A sample is KEY.png (the bytes of the package), KEY.txt (the caption) and KEY.json (the record); KEY is the Unicode
sequence in lower case ("1f468-200d-1f9b0"). Both the held-out tenth and the order follow from sha256(KEY) alone, so
that a shard is a mix of all categories and a sample never moves between train and held-out.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gen_dist.data.emoji.captions import caption

PACKAGE, VERSION = "emoji-datasource-google", "16.0.0"
NUM_TRAIN_SHARDS = 4
CATEGORIES = (
    "Activities",
    "Animals & Nature",
    "Component",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
_KEPT_FIELDS = ("subcategory", "short_name", "short_names", "unified", "image")
_IMAGES = "img/google/64/"


class PackageError(ValueError):
    """The package is not the one that the shards are built from."""


class Sample(NamedTuple):
    """One emoji: the PNG as shipped, and its record (emoji.json's, or the member KEY.json of a shard)."""

    png: bytes
    record: Mapping[str, object]

    @property
    def key(self) -> str:
        """The Unicode sequence in lower case; holds no dot, as a dot would end a WebDataset key."""
        return str(self.record["unified"]).lower()


def pack(samples: Iterable[Sample]) -> dict[str, bytes]:
    """The shards as {file name: tar bytes}. Neither the order of `samples` nor a repacking changes it."""
    ordered = sorted(samples, key=lambda sample: _digest(sample.key))
    train = [sample for sample in ordered if not is_held_out(sample.key)]
    held_out = [sample for sample in ordered if is_held_out(sample.key)]
    bounds = [len(train) * i // NUM_TRAIN_SHARDS for i in range(NUM_TRAIN_SHARDS + 1)]
    shards = {f"train-{i:05d}.tar": _tar(train[bounds[i] : bounds[i + 1]]) for i in range(NUM_TRAIN_SHARDS)}
    return shards | {"heldout-00000.tar": _tar(held_out)}


def is_held_out(key: str) -> bool:
    """Whether a sample is in the held-out tenth: sha256(KEY) mod 10 == 0."""
    return int(_digest(key), 16) % 10 == 0


def read_package(path: Path) -> list[Sample]:
    """All samples of the npm package, given as its .tgz or as the folder that it unpacks to."""
    files = _read_folder(path) if path.is_dir() else _read_tgz(path)
    if "package.json" not in files:
        raise PackageError(f"{path}: no package.json in it; give the .tgz of `npm pack {PACKAGE}@{VERSION}`")
    about = json.loads(files["package.json"])
    if (about["name"], about["version"]) != (PACKAGE, VERSION):
        raise PackageError(
            f"{path}: is {about['name']} {about['version']}, the shards are built from {PACKAGE} {VERSION}; "
            f"run `npm pack {PACKAGE}@{VERSION}` and give its .tgz"
        )
    return [Sample(files[_IMAGES + record["image"]], record) for record in json.loads(files["emoji.json"])]


def _read_folder(path: Path) -> dict[str, bytes]:
    found = [path / "package.json", path / "emoji.json", *(path / _IMAGES).glob("*.png")]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in found if file.is_file()}


def _read_tgz(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:  # in the order of the archive: seeking back in a .tgz decompresses it again
            name = member.name.removeprefix("package/")
            wanted = name in ("package.json", "emoji.json") or name.startswith(_IMAGES)
            if wanted and (content := tar.extractfile(member)):
                files[name] = content.read()
    return files


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _tar(samples: Sequence[Sample]) -> bytes:
    """A USTAR archive without times, owners or anything else of the machine that wrote it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            record = sample.record
            kept = {"name": record["name"], "category": record["category"]}
            kept |= {"label": CATEGORIES.index(str(record["category"]))} | {
                field: record[field] for field in _KEPT_FIELDS
            }
            text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
            for extension, content in (
                ("png", sample.png),
                ("txt", caption(record).encode()),
                ("json", text.encode()),
            ):
                member = tarfile.TarInfo(f"{sample.key}.{extension}")  # mtime, uid, gid 0; no names; mode 0644
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the shards, or with --check compares them: exit status 1 when they differ or the package is wrong."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        prog="python -m gen_dist.data.emoji.build", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--package", type=Path, required=True, help=f".tgz of `npm pack {PACKAGE}@{VERSION}`, or its folder"
    )
    parser.add_argument(
        "--out", type=Path, default=here, help="folder of the shards (default: the folder of this script)"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the shards in --out differ")
    options = parser.parse_args(arguments)
    try:
        shards = pack(read_package(options.package))
    except (PackageError, OSError, tarfile.TarError) as error:
        print(error, file=sys.stderr)
        return 1
    if options.check:
        found = {path.name: path.read_bytes() for path in options.out.glob("*.tar")}
        differing = sorted(name for name in shards.keys() | found.keys() if shards.get(name) != found.get(name))
        for name in differing:
            print(
                f"{options.out / name}: differs from what the package gives; run again without --check", file=sys.stderr
            )
        return 1 if differing else 0
    options.out.mkdir(parents=True, exist_ok=True)
    for name, content in shards.items():
        (options.out / name).write_bytes(content)
        print(f"{options.out / name}: {len(content)} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
