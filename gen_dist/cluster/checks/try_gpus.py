"""The GPUs of this machine, each tried with a small product: `python -m` this file tells in JSON what it found."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

SMI_S = 10.0
QUERY = {
    "ecc.errors.uncorrected.volatile.total": "uncorrected ECC errors since the last reboot",
    "retired_pages.pending": "pages of memory to be retired",
}
REMAPPED = {"remapped_rows.pending": "rows of memory to be remapped", "remapped_rows.failure": "a failed row remapping"}
MOST_OFF = 1e-2  # of a product of bf16 matrices against fp32, relative


def devices_here() -> dict[str, Any]:
    """Each GPU of this machine, tried with a small product; what the driver counts; kernel messages of faults."""
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch sees no GPU"
        return {"devices": [], "why": why, "broken": [], "notes": []}
    devices = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        one = {"index": index, "name": about.name, "memory_bytes": about.total_memory, "error": _try(index)}
        devices.append(one)
    broken = _smi("--query-gpu", QUERY) + _smi("--query-remapped-rows", REMAPPED)
    return {"devices": devices, "why": "", "broken": broken, "notes": xid_lines(_kernel_messages())}


def _try(index: int) -> str:
    """What is wrong with the numbers of one GPU; empty where nothing is."""
    try:
        device = torch.device("cuda", index)
        draw = torch.Generator().manual_seed(index)
        one, other = (torch.randn(512, 512, generator=draw) for _ in range(2))
        there = (one.to(device, torch.bfloat16) @ other.to(device, torch.bfloat16)).float().cpu()
        right = one @ other
        off = float((there - right).norm() / right.norm())
    except RuntimeError as error:  # of CUDA: out of memory, an uncorrectable error, a driver that is too old
        return " ".join(str(error).split())[:200]
    return "" if off < MOST_OFF else f"its products are {off:.2g} off"


def _smi(query: str, fields: Mapping[str, str]) -> list[str]:
    command = ["nvidia-smi", f"{query}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return counted(done.stdout, list(fields.values())) if done.returncode == 0 else []


def counted(table: str, meanings: list[str]) -> list[str]:
    """What is not 0 in a table of nvidia-smi (a row each GPU, a column each meaning), in a line each."""
    lines = []
    for number, row in enumerate(line for line in table.splitlines() if line.strip()):
        for meaning, value in zip(meanings, (cell.strip() for cell in row.split(",")), strict=False):
            if value.lower() not in ("0", "no", "n/a", "[n/a]", "[not supported]", ""):
                lines.append(f"GPU {number}: {meaning} ({value})")
    return lines


def xid_lines(messages: str) -> list[str]:
    """The newest fault that the driver wrote to the kernel's log, and how many there are."""
    found = [line.partition("NVRM: ")[2] for line in messages.splitlines() if "NVRM: Xid" in line]
    return [f"{len(found)} Xid faults in the kernel's log, last {found[-1][:120]}"] if found else []


def _kernel_messages() -> str:
    """Empty where this user may not read them."""
    try:
        done = subprocess.run(["dmesg"], capture_output=True, text=True, timeout=SMI_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 and Path("/proc/driver/nvidia").exists() else ""


if __name__ == "__main__":
    print(json.dumps(devices_here()))  # noqa: T201  the answer
