"""The shards that a local or embedded data address holds, by name and size only: nothing is opened."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from gen_dist.job.pattern import pattern_fault
from gen_dist.job.problem import Problem, choose
from gen_dist.job.spec import DataSpec

EMBEDDED = Path(__file__).resolve().parents[1] / "data"
MOST_NAMES = 4
NO_SHARDS = (".gdx", ".idx")  # indices: they lie beside shards and have their names in front


def local_folder(url: str) -> Path | None:
    """The folder behind an address, None where it is not on this machine."""
    scheme, found, rest = url.partition("://")
    if not found:
        return Path(url)
    return EMBEDDED / rest.strip("/") if scheme == "embedded" else None


def shards(url: str, pattern: str) -> dict[str, int] | None:
    """Name -> bytes of the files below a local `url` that match `pattern`, sorted; None for remote addresses."""
    folder = local_folder(url)
    if folder is None or pattern_fault(pattern):
        return None if folder is None else {}
    found = {path.relative_to(folder).as_posix(): path for path in folder.glob(pattern) if path.is_file()}
    names = [name for name in sorted(found) if _matches(name, pattern) and not name.endswith(NO_SHARDS)]
    return {name: found[name].stat().st_size for name in names}


def _matches(name: str, pattern: str) -> bool:
    """The rule of every store: wildcards stop at `/`."""
    parts, globs = name.split("/"), pattern.split("/")
    return len(parts) == len(globs) and all(fnmatchcase(part, glob) for part, glob in zip(parts, globs, strict=True))


def data_problems(data: DataSpec) -> list[Problem]:
    """What is wrong with local data: no folder, no shard, or shards that are both trained and measured on."""
    folder = local_folder(data.url)
    if folder is None:
        return []
    if not folder.is_dir():
        return [_no_folder(data.url, folder)]
    train, heldout = shards(data.url, data.train) or {}, shards(data.url, data.heldout) or {}
    found = [] if train else [_no_shards("train", data.train, folder)]
    if data.heldout and not heldout:
        found.append(_no_shards("heldout", data.heldout, folder))
    both = sorted(train.keys() & heldout.keys())
    if both:
        what = f"{len(both)} of its shards are trained on too ({', '.join(both[:MOST_NAMES])})"
        remedy = f"write a data.train that leaves them out, it is '{data.train}'"
        found.append(Problem("data.heldout", what, remedy, data.heldout, ("data.train", "data.url")))
    return found


def _no_folder(url: str, folder: Path) -> Problem:
    if "://" in url:
        known = sorted(path.parent.name for path in EMBEDDED.glob("*/*.tar"))
        names = [f"embedded://{name}" for name in dict.fromkeys(known)]
        return Problem("data.url", "no such embedded data set", choose(url, names), url)
    seen_from = "" if folder.is_absolute() else f" (seen from {Path.cwd()})"
    remedy = f"create it{seen_from}, or write embedded://emoji or s3://bucket/prefix"
    return Problem("data.url", "no such folder", remedy, url)


def _no_shards(key: str, pattern: str, folder: Path) -> Problem:
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = ", ".join(there[:MOST_NAMES]) + (", ..." if len(there) > MOST_NAMES else "")
    remedy = f"write a pattern of what is there: {names}" if there else "put tar shards there"
    return Problem(f"data.{key}", f"matches no file in {folder}", remedy, pattern, ("data.url",))
