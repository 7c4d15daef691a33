"""Are the pretrained models of a job where its workers will look for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from gen_dist.cluster.checks.finding import Finding, grouped, ok
from gen_dist.job.settings import folder_keys, settings_of
from gen_dist.job.spec import JobSpec

CHECK = "models"
REMEDY = "copy it there, or name a folder that every machine has at the same path (NFS, Lustre, a shared volume)"


def folders_of(job: JobSpec) -> dict[str, list[str]]:
    """Folder -> the keys of the job that name it; empty where its recipe reads none."""
    found: dict[str, list[str]] = {}
    for name in folder_keys(settings_of(job.recipe)):
        if folder := job.model.get(name):
            found.setdefault(folder, []).append(f"model.{name}")
    return found


def look(folders: Sequence[str]) -> list[str]:
    """Those that this machine does not have."""
    return [folder for folder in folders if not Path(folder).is_dir()]


def judge(
    folders: Mapping[str, Sequence[str]], found: Mapping[str, Sequence[str]], failed: Mapping[str, BaseException]
) -> Finding:
    """What `look` gave, by machine; `folders`: the keys that name each."""
    texts = {machine: f"not looked at ({str(error) or type(error).__name__})" for machine, error in failed.items()}
    for machine, missing in found.items():
        if missing:
            named = ", ".join(f"{folder} ({', '.join(folders[folder])})" for folder in missing)
            texts[machine] = f"no folder {named}; {REMEDY}"
    if texts:
        return grouped(CHECK, texts)
    there = f" on each of {len(found)} places" if len(found) > 1 else ""
    return ok(CHECK, f"{', '.join(folders)}: there{there}", num_folders=len(folders))
