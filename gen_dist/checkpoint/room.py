"""Room: host memory for a snapshot, taken only where the machine and the limits of this process have it to spare.

Linux promises memory freely and gives it when it is touched. Who touches more than there is gets no error, but is
killed, and the training with it. So we look first; and we touch it stretch by stretch and look again before each,
because the other workers of the machine take theirs at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gen_dist.checkpoint.layout import PAGE_BYTES

STRETCH_BYTES = 64 << 20
SPARE_SHARE, SPARE_BYTES = 16, 1 << 30  # left to everything else: this share of a limit, and no more than so much
NO_LIMIT_BYTES = 1 << 60  # cgroup 1 writes a number where there is no limit


@dataclass(frozen=True)
class Limit:
    """Something that gives no more memory than so much."""

    where: str
    size_bytes: int
    free_bytes: int
    """Not used, or used by copies of files that the kernel drops when it must."""

    def refuses(self, wanted_bytes: int) -> bool:
        """Whether too little would be left to the rest."""
        return self.free_bytes - wanted_bytes < min(SPARE_BYTES, self.size_bytes // SPARE_SHARE)


def take_room(size_bytes: int, *, pinned: bool = False, root: Path = Path("/")) -> Tensor:
    """So many bytes, which begin at a page of memory, so that a disk can fetch them from there.

    `pinned`: a GPU copies into them by itself. `root`: where /proc and /sys are. Raises: MemoryError.
    """
    if size_bytes > STRETCH_BYTES:  # less is no matter
        _check(size_bytes, size_bytes, root)
    try:
        if pinned:
            return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
        room = torch.empty(size_bytes + PAGE_BYTES, dtype=torch.uint8)
    except RuntimeError as error:  # torch has no kind of its own for this
        raise MemoryError(f"{size_bytes} bytes of host memory for a snapshot: {error}") from error
    first = -room.data_ptr() % PAGE_BYTES
    room = room[first : first + size_bytes]
    for number, stretch in enumerate(room.split(STRETCH_BYTES)):
        if number:
            _check(len(stretch), size_bytes, root)
        stretch.zero_()
    return room


def _check(next_bytes: int, size_bytes: int, root: Path) -> None:
    for limit in limits(root):
        if limit.refuses(next_bytes):
            raise MemoryError(
                f"{size_bytes} bytes of host memory for a snapshot: {limit.where} has {limit.free_bytes} of"
                f" {limit.size_bytes} bytes left, and some must stay free; give it more, or run fewer workers there"
            )


def limits(root: Path = Path("/")) -> list[Limit]:
    """The machine's memory and the cgroups' above this process, which containers are made of. None off Linux."""
    found = []
    machine = _numbers(root / "proc" / "meminfo", unit_bytes=1024)
    if {"MemTotal:", "MemAvailable:"} <= machine.keys():
        found.append(Limit("this machine", machine["MemTotal:"], machine["MemAvailable:"]))
    for folder, names in _groups(root):
        try:
            size_bytes, used_bytes = (int((folder / name).read_text()) for name in names)
        except (OSError, ValueError):  # not there, or "max"
            continue
        if size_bytes < NO_LIMIT_BYTES:
            files = _numbers(folder / "memory.stat")
            prefix = "total_" if "total_inactive_file" in files else ""
            cached_bytes = sum(files.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
            found.append(Limit(f"the cgroup {folder}", size_bytes, size_bytes - used_bytes + cached_bytes))
    return found


def _groups(root: Path) -> Iterator[tuple[Path, tuple[str, str]]]:
    """The folder of each cgroup above this process, and what its files of limit and use are called."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            top, names = root / "sys" / "fs" / "cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top = root / "sys" / "fs" / "cgroup" / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        folder = top / path.lstrip("/")
        if not folder.is_dir():  # a container that sees its own cgroup as the top one
            folder = top
        for above in (folder, *folder.parents):
            if above.is_relative_to(top):
                yield above, names


def _numbers(path: Path, *, unit_bytes: int = 1) -> dict[str, int]:
    """A file of lines with a name and a number; empty where there is none."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {words[0]: int(words[1]) * unit_bytes for words in lines if len(words) > 1 and words[1].isdigit()}
