"""What a run leaves on the disks of a machine, and whether they have the room. Counted, not measured."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen_dist.job import arithmetic
from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import JobSpec

LOGS_BYTES = 1 << 30  # of a run: its events, samples and curves
SESSION_BYTES = 1 << 30  # of Ray on each machine: logs of all processes, and what it spills
BYTES_PER_PARAMETER = 16  # of a checkpoint: weight, two moments, average, 4 bytes each


def num_parameters(job: JobSpec) -> int:
    """Of all trained networks, counted without making them; 0 where a folder that they need is not on this machine."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from gen_dist.nets.pretrained import shapes_alone
    from gen_dist.recipes import catalog

    try:
        # not torch's device "meta": transformers makes a model there by a way of its own, which then fails
        with FakeTensorMode(allow_non_fake_inputs=True), shapes_alone():
            networks = catalog.build(job.recipe, job.model).networks()
    except (GenDistError, OSError, ValueError):  # an estimate; what is wrong with a folder is told where the run is
        return 0
    return sum(parameter.numel() for net in networks.values() for parameter in net.parameters())


def written_folders(job: JobSpec, parameters: int) -> dict[str, int]:
    """Folder -> bytes that a run leaves there; checkpoints only where they go to a disk."""
    folders = {arithmetic.run_folder(job): LOGS_BYTES}
    url = arithmetic.checkpoints_url(job)
    if "://" not in url:
        num_kept = job.run.keep_checkpoints + job.run.keep_best + 1  # one is being written
        folders[url] = num_kept * parameters * BYTES_PER_PARAMETER
    return folders


def nearest(folder: Path) -> Path:
    """The folder itself, or the one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def disk_of(folder: str) -> dict[str, Any]:
    """The disk that a folder is on, or would be."""
    where = nearest(Path(folder).absolute())
    usage = shutil.disk_usage(where)
    return {"free_bytes": usage.free, "total_bytes": usage.total, "device": where.stat().st_dev}


def disk_needs(needs: Mapping[str, int], disks: Mapping[str, Mapping[str, Any]]) -> list[tuple[int, int, list[str]]]:
    """For each disk: (free bytes, wanted bytes, folders). `disks`: that of each folder of `needs`, see `disk_of`."""
    free = {disk["device"]: disk["free_bytes"] for disk in disks.values()}
    wanted_bytes: dict[int, int] = {}
    where: dict[int, list[str]] = {}
    for folder, num_bytes in needs.items():
        device = disks[folder]["device"]
        wanted_bytes[device] = wanted_bytes.get(device, 0) + num_bytes
        where.setdefault(device, []).append(folder)
    return [(free[device], num_bytes, where[device]) for device, num_bytes in wanted_bytes.items()]


def disk_short(free_bytes: int, wanted_bytes: int, folders: list[str]) -> str:
    """What is wrong with so much room on a disk, and what to do; empty where nothing is."""
    if free_bytes >= wanted_bytes:
        return ""
    seen = f"{mebibytes(free_bytes)} free, {mebibytes(wanted_bytes)} wanted ({', '.join(folders)})"
    return f"{seen}; make room there, or name another run.folder or run.checkpoints"


def mebibytes(num_bytes: float) -> str:
    """A size as a person reads it."""
    return f"{num_bytes / 2**30:,.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.0f} MiB"
