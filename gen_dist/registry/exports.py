"""Exported models in storage: written once, listed with their checksums, and read back only as they were written.

An export is a folder of objects below the home of its model. `EXPORT.json` is written last and names all the others
with their size and SHA-256: a folder without it was never finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow import MlflowClient

from gen_dist.registry.errors import RegistryError
from gen_dist.registry.home import Home, noted
from gen_dist.store import Store, StoreError

INDEX = "EXPORT.json"
FORMAT = "gen-dist-export-1"
BLOCK_BYTES = 4 << 20


def put(folder: Path, store: Store, prefix: str) -> None:
    """Copy all files below `folder` to `prefix`. Raises: RegistryError."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    facts = {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in files.items()}
    with _told(store, prefix):
        for name, path in files.items():
            store.write_file(f"{prefix}/{name}", path)
        index = json.dumps({"format": FORMAT, "files": facts}, indent=1) + "\n"
        store.write(f"{prefix}/{INDEX}", index.encode("utf-8"))


def address(home: Home, prefix: str) -> str:
    """What MLflow calls an export."""
    return f"{home.url.rstrip('/')}/{prefix}" if not home.is_folder else (Path(home.url) / prefix).as_uri()


def prefix_of(home: Home, source: str) -> str:
    """The part of an address below the home; empty where the model lies elsewhere."""
    base = home.url.rstrip("/") if not home.is_folder else Path(home.url).as_uri().rstrip("/")
    return source.removeprefix(f"{base}/") if source.startswith(f"{base}/") else ""


def fault_of(store: Store, prefix: str) -> str:
    """What of an export is not as it was published; empty where every byte is. Reads all of it."""
    try:
        for name, fact in _files(store, prefix).items():
            with store.stream(f"{prefix}/{name}") as file:
                digest, size_bytes = hashlib.sha256(), 0
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
                    size_bytes += len(block)
                if size_bytes != fact["bytes"]:
                    return f"{name} has {size_bytes} bytes, {fact['bytes']} were published"
                if digest.hexdigest() != fact["sha256"]:
                    return f"{name} has other bytes than were published"
    except (StoreError, RegistryError) as error:
        return " ".join(str(error).split())
    return ""


def fetch(store: Store, prefix: str, dest: Path) -> Path:
    """Copy an export to `dest`; every file is checked. Raises: RegistryError."""
    with _told(store, prefix):
        for name, fact in _files(store, prefix).items():
            path = dest / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with store.stream(f"{prefix}/{name}") as source, path.open("xb") as target:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
            if _sha256(path) != fact["sha256"]:
                raise RegistryError(
                    f"{store.url}/{prefix}/{name}: other bytes than were published; take another version"
                )
    return dest


def fetch_export(client: MlflowClient, version: Any, source: str, dest: Path, *, tracking_uri: str) -> Path:
    """Copy the export behind a model version to `dest`, reached as its home says. Raises: RegistryError."""
    its = noted(client.get_registered_model(version.name), tracking_uri)
    prefix = prefix_of(its, source)
    if not prefix:
        raise RegistryError(
            f"{version.name}/{version.version}: its model lies in {source}, outside of {its.url}; copy it to a folder"
            " and name that"
        )
    return fetch(its.open(version.name), prefix, dest)


def remove(store: Store, home: Home, prefix: str) -> None:
    """Delete an export, the index first; what is gone already is fine."""
    with _told(store, prefix):
        try:
            names = list(_files(store, prefix))
        except RegistryError:
            names = []  # an earlier removal ended midway
        store.delete(f"{prefix}/{INDEX}")
        for name in names:
            store.delete(f"{prefix}/{name}")
    if home.is_folder:
        shutil.rmtree(Path(home.url) / prefix, ignore_errors=True)  # empty folders, and what MLflow noted in them


def _files(store: Store, prefix: str) -> Mapping[str, Mapping[str, Any]]:
    """Name -> bytes and sha256, of names that stay below the export."""
    where = f"{store.url}/{prefix}/{INDEX}"
    try:
        facts = json.loads(store.read(f"{prefix}/{INDEX}"))
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']!r}, expected {FORMAT!r}")
        files = {
            str(name): {"bytes": int(f["bytes"]), "sha256": str(f["sha256"])} for name, f in facts["files"].items()
        }
    except StoreError as error:
        raise RegistryError(f"{where}: the export is not whole: {' '.join(str(error).split())}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistryError(f"{where}: not a list of files ({error}); publish the checkpoint again") from None
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in name:
            raise RegistryError(
                f"{where}: {name!r} leads out of the export; do not use it, publish the checkpoint again"
            )
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _told(store: Store, prefix: str) -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        words = " ".join(str(error).split())
        raise RegistryError(f"{store.url}/{prefix}: the export is not written or read: {words}") from None
