"""pack: the zip that a cluster runs: this package's code, the embedded shards that the job reads, and its job file.

Its bytes follow from what it holds alone, so that Ray uploads the same code once.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gen_dist.cluster.errors import JobsError
from gen_dist.cluster.secrecy import leaks
from gen_dist.job.spec import JobSpec

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 100 * 2**20 - 2**16
"""What the head of a cluster takes in one request: 100 MiB, with its envelope (DASHBOARD_CLIENT_MAX_SIZE of Ray)."""
MOST_NAMES = 3


@dataclass(frozen=True)
class Package:
    """`data` is a zip to be unpacked into an empty folder."""

    data: bytes
    code_digest: str
    """SHA-256 of the code alone, without the files of one submission."""


def pack(files: Mapping[str, bytes], *, embedded: Iterable[str] = (), root: Path = ROOT) -> Package:
    """The code below `root` with `files` beside it, and the shards of the `embedded` data sets.

    Only Python files and those shards travel: a folder of code may hold anything else of its owner's.

    Raises: JobsError where it is too large, or holds a secret of this environment.
    """
    code = {f"{root.name}/{path.relative_to(root).as_posix()}": path.read_bytes() for path in _code(root, embedded)}
    held = {**code, **files}
    found = leaks(held, os.environ)
    if found:
        raise JobsError(
            f"{found[0]}{f' (and {len(found) - 1} more)' if len(found) > 1 else ''}: nothing was sent; take it out:"
            " credentials come from the cluster's own environment, a profile there, or roles"
        )
    data = _zipped(held)
    if len(data) > MOST_BYTES:
        raise JobsError(f"the code to send takes {_mib(len(data))}, {_too_large(held)}")
    digest = hashlib.sha256()
    for name, content in sorted(code.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return Package(data, digest.hexdigest())


def embedded_of(job: JobSpec) -> set[str]:
    """Names of the embedded data sets that a job reads."""
    urls = [job.data.url, job.data.derived, *(url for source in job.data.mix for url in (source.url, source.derived))]
    return {url.removeprefix("embedded://").strip("/") for url in urls if url.startswith("embedded://")}


def _code(root: Path, embedded: Iterable[str]) -> list[Path]:
    found = [path for path in root.rglob("*.py") if path.is_file() and not _hidden(path.relative_to(root))]
    for name in embedded:
        found += [*(root / "data" / name).glob("*.tar"), *(root / "data" / name).glob("LICENSE*")]
    return sorted(found)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _zipped(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as package:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # of 1980: its time is no part of the code
            entry.external_attr = 0o644 << 16
            kind = zipfile.ZIP_STORED if name.endswith(".tar") else zipfile.ZIP_DEFLATED  # images are compressed
            package.writestr(entry, content, compress_type=kind)
    return out.getvalue()


def _too_large(files: Mapping[str, bytes]) -> str:
    largest = sorted(files, key=lambda name: len(files[name]), reverse=True)[:MOST_NAMES]
    named = ", ".join(f"{name} {_mib(len(files[name]))}" for name in largest)
    return (
        f"and a cluster takes {_mib(MOST_BYTES)} at most; the largest files are {named}: keep data in s3:// or in a"
        " folder that the cluster sees, and only code in gen_dist"
    )


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
