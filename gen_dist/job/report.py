"""What `gen-dist check` says of a job: every key with its value, and the numbers that follow; as data and as text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gen_dist.job.arithmetic import asked_sizes, derived, world_sizes
from gen_dist.job.load import missing_folders, resolve
from gen_dist.job.settings import CATALOG, compared_images, settings_of, zero_max
from gen_dist.job.shards import shards
from gen_dist.job.spec import JobSpec, Spec

MOST_ROWS = 8
LINE_CHARACTERS = 100


def report(job: JobSpec, *, file: str, catalog: Path = CATALOG) -> dict[str, Any]:
    """JSON-able: the file, the resolved job, its derived numbers, the local data, and what is doubtful."""
    data = {part: _amount(job.data.url, getattr(job.data, part)) for part in ("train", "heldout")}
    settings = settings_of(job.recipe, catalog)
    return {
        "file": file,
        "job": resolve(job),
        "derived": derived(job, zero_max(settings(**job.model))) | {"data": data},
        "warnings": [
            *_warnings(job, settings),
            *(missing.warning for missing in missing_folders(job, catalog)),
        ],
    }


def text(job: JobSpec, *, file: str, catalog: Path = CATALOG) -> str:
    """The report for a person: the resolved job as TOML that could be run again, then the derived numbers."""
    facts = report(job, file=file, catalog=catalog)
    specs = {"model": settings_of(job.recipe, catalog)}
    warnings = "".join(f"\nwarning: {warning}" for warning in facts["warnings"])
    return "\n".join([*_toml(facts["job"], JobSpec, specs), "", *_rows(facts["derived"])]) + warnings


def _amount(url: str, pattern: str) -> dict[str, int] | None:
    found = shards(url, pattern)
    return None if found is None else {"num_shards": len(found), "bytes": sum(found.values())}


def _warnings(job: JobSpec, settings: type[Spec]) -> Iterator[str]:
    yield from ends_early(job, settings)
    cluster, cpus = job.cluster, os.cpu_count() or 1
    compared, micro = compared_images(settings), job.train.micro_batch_images
    if micro % compared:
        yield (
            f"train.micro_batch_images={micro}: recipe '{job.recipe}' compares {compared} neighbours, another number"
            f" of them where a micro-batch does not divide by {compared}; write {-(-micro // compared) * compared}"
        )
    named, works = asked_sizes(job), world_sizes(job)
    if works[-1] < named[-1]:
        yield (
            f"cluster.num_workers=[{named[0]}, {named[-1]}]: at most {works[-1]} of them at {micro} images of"
            f" train.micro_batch_images split train.global_batch_images={job.train.global_batch_images}; for more,"
            f" write a multiple of {named[-1] * micro} there, or smaller micro-batches"
        )
    if not cluster.address and world_sizes(job)[0] * cluster.cpus_per_worker > cpus:
        asked = f"{world_sizes(job)[0]} x cluster.cpus_per_worker={cluster.cpus_per_worker:g}"
        yield f"cluster.num_workers: {asked} CPUs wanted, this machine has {cpus}; write smaller numbers or an address"
    if job.train.precision == "bf16" and not cluster.use_gpu:
        yield "train.precision='bf16': slow on most CPUs; write 'fp32', or cluster.use_gpu = true"
    if cluster.threads_per_worker > cluster.cpus_per_worker:
        yield (
            f"cluster.threads_per_worker={cluster.threads_per_worker}: more than cluster.cpus_per_worker="
            f"{cluster.cpus_per_worker:g}; workers on one machine will wait for each other"
        )


def ends_early(job: JobSpec, settings: type[Spec]) -> Iterator[str]:
    """A warning where the run would end before the part of its recipe begins that draws."""
    first = int(getattr(settings(**job.model), "first_images", 0))
    if first >= job.train.total_images:
        yield (
            f"train.total_images={job.train.total_images}: the run ends before what draws begins to learn, after"
            f" {first} images of the first part; write more than {first}, or a shorter first part"
        )


def _toml(table: Mapping[str, Any], spec: Any, specs: Mapping[str, type[Spec]], path: str = "") -> Iterator[str]:
    """A table and the tables in it; a value that is not the default says what the default is."""
    fields = getattr(spec, "model_fields", {})
    inner = {key: value for key, value in table.items() if isinstance(value, dict) and value}
    for key, value in table.items():
        if key not in inner:
            yield f"{_key(key)} = {as_toml(value)}{_mark(value, fields.get(key))}"
    for key, value in inner.items():
        yield from ["", f"[{path}{key}]"]
        below = specs.get(f"{path}{key}") or (fields[key].annotation if key in fields else None)
        yield from _toml(value, below, specs, f"{path}{key}.")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name, ensure_ascii=False)


def _mark(value: Any, field: Any) -> str:
    if field is None or field.is_required():
        return "  # no default"
    default = json.loads(json.dumps(field.get_default(call_default_factory=True), default=str))
    return "" if value == default else f"  # default: {as_toml(default)}"


def as_toml(value: Any) -> str:
    """A value as a job file may hold it; a long list has a line for each entry."""
    if isinstance(value, list):
        line = "[" + ", ".join(map(as_toml, value)) + "]"
        return line if len(line) <= LINE_CHARACTERS else "[\n" + "".join(f"    {as_toml(v)},\n" for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {as_toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:_}"
    return json.dumps(value, ensure_ascii=False)


def _rows(facts: Mapping[str, Any]) -> Iterator[str]:
    cells = [(name.replace("num_", "").replace("_", " "), _cell(name, fact)) for name, fact in facts.items()]
    width = max(len(name) for name, _ in cells)
    yield from (f"{name:<{width}}  {cell}" for name, cell in cells)


def _cell(name: str, fact: Any) -> str:
    if name in ("accumulation", "images_per_worker"):
        sizes = [f"{value} on {size} worker{'' if size == '1' else 's'}" for size, value in fact.items()]
        more = f", and {len(sizes) - MOST_ROWS} more" if len(sizes) > MOST_ROWS else ""
        return ", ".join(sizes[:MOST_ROWS]) + more
    if name == "data":
        return "; ".join(f"{part} {_amount_in_words(amount)}" for part, amount in fact.items())
    if isinstance(fact, dict):
        return ", ".join(f"{key} {value}" for key, value in fact.items()) or "no groups"
    return f"{fact:,}" if isinstance(fact, int) else str(fact)


def _amount_in_words(amount: Mapping[str, int] | None) -> str:
    if amount is None:
        return "not listed (remote)"
    if not amount["num_shards"]:
        return "none"
    return f"{amount['num_shards']} shard{'s' if amount['num_shards'] > 1 else ''}, {amount['bytes']:,} bytes"
