"""away_problems: places of a job that other machines cannot see: folders written relative to the current one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gen_dist.job.problem import Problem
from gen_dist.job.spec import JobSpec

WRITTEN = ("run.folder", "run.checkpoints", "registry.store", "data.disk_cache")
READ = ("data.url", "data.derived")
MIXED = ("url", "derived")
SHARED = "write a folder that all its machines have at the same path, such as '/mnt/shared/runs'"
DATA = "write s3://bucket/prefix, or a folder that all its machines have at the same path, such as '/mnt/shared/shards'"
MODEL = "model."
THERE = "write its absolute path there, the same on all its machines"
SERVER = "write the address of an MLflow server that the cluster reaches, or nothing for a file in run.folder"


def away_problems(raw: Mapping[str, Any], job: JobSpec, model_folders: Sequence[str] = ()) -> list[Problem]:
    """What is wrong with a job for a cluster. `raw` holds its tables as they were written, before folders were placed.

    An absolute folder is one of the cluster's machines: whether it is there is seen there. `model_folders`: settings
    of the recipe that name one.
    """
    models = [f"{MODEL}{name}" for name in model_folders]
    texts = {"run.folder": job.run.folder, **dict(_texts(raw, (*READ, *WRITTEN, "tracking.uri", *models)))}
    return [
        Problem(key, "a folder of this machine, which a cluster does not see", _remedy(key), text)
        for key, text in texts.items()
        if _is_relative(key, text)
    ]


def _texts(raw: Mapping[str, Any], keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key in keys:
        table, _, name = key.partition(".")
        inner = raw.get(table)
        value = inner.get(name) if isinstance(inner, Mapping) else None
        if isinstance(value, str):
            yield key, value
    data = raw.get("data")
    mix = data.get("mix") if isinstance(data, Mapping) else None
    for position, source in enumerate(mix if isinstance(mix, list) else []):
        for name in MIXED:
            if isinstance(source, Mapping) and isinstance(source.get(name), str):
                yield f"data.mix[{position}].{name}", source[name]


def _is_relative(key: str, text: str) -> bool:
    if key == "tracking.uri" and text.startswith(("sqlite:", "file:")):
        return not text.startswith(("sqlite:////", "file:///"))
    if text.startswith("models:/"):
        return False
    return bool(text) and "://" not in text and not text.startswith("/")


def _remedy(key: str) -> str:
    if key == "tracking.uri":
        return SERVER
    if key == "run.checkpoints":
        return f"write s3://bucket/prefix, or {SHARED.removeprefix('write ')}"
    if key.startswith(MODEL):
        return THERE
    return SHARED if key in WRITTEN else DATA
