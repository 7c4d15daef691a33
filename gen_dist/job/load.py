"""load_job: a job file and its --set overrides -> JobSpec with every default in place, or all that is wrong with it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gen_dist.job import explain
from gen_dist.job.away import away_problems
from gen_dist.job.errors import JobError
from gen_dist.job.limits import limit_problems
from gen_dist.job.overrides import Override, origin_of, parse, place
from gen_dist.job.problem import Problem, choose
from gen_dist.job.settings import (
    CATALOG,
    folder_keys,
    learns_many_sizes,
    least_micro_batch,
    recipe_names,
    settings_of,
    zero_max,
)
from gen_dist.job.shards import data_problems
from gen_dist.job.spec import JobSpec, Spec

MOST_NEARBY_FILES = 8
EMBEDDED = "embedded://"


def load_job(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    away: bool = False,
    looks_at_data: bool = True,
    looks_at_models: bool = False,
    catalog: Path = CATALOG,
) -> JobSpec:
    """The job of a TOML file, or of a job.resolved.json, checked; `overrides` are texts like `train.zero_stage=2`.

    Raises JobError with one line a problem: types, names, arithmetic for the smallest number of workers, ZeRO
    stages, and with `looks_at_data`, where the data is on this machine, its shards; with `looks_at_models`, where the
    run is to be on this machine, the folders of networks that `model` names. With `away` the job is for other
    machines: folders are theirs and not looked at, and none may be relative to the current one.
    """
    raw = _read(Path(path))
    parsed = [parse(text) for text in overrides]
    refused = [line for line in parsed if isinstance(line, str)]
    typed = [override for override in parsed if isinstance(override, Override)]
    found: list[Problem] = [problem for override in typed if (problem := place(raw, override.key, override.value))]
    _keep_texts(raw, typed)
    job, more = _build(raw, catalog)
    if away:
        known = job.recipe in recipe_names(catalog)
        more += away_problems(raw, job, folder_keys(settings_of(job.recipe, catalog)) if known else ())
        looks_at_data = looks_at_data and job.data.url.startswith(EMBEDDED)
    if looks_at_data and not any(problem.key.startswith("data") for problem in more):
        more += data_problems(job.data)
    if looks_at_models and not away and not any(problem.key in ("recipe", "cluster") for problem in more):
        doubtful = {problem.key for problem in more}
        more += [problem for problem in missing_folders(job, catalog) if problem.key not in doubtful]
    lines = refused + [_line(problem, typed, str(path)) for problem in [*found, *more]]
    if lines:
        raise JobError(list(dict.fromkeys(lines)))
    return job


def load_resolved(
    resolved: Mapping[str, Any], *, origin: str = "job.resolved.json", catalog: Path = CATALOG
) -> JobSpec:
    """The job that `resolve` wrote down. Data may have moved since, so its shards are not looked at."""
    job, found = _build(dict(resolved), catalog)
    if found:
        raise JobError([problem.line(origin) for problem in found])
    return job


def resolve(job: JobSpec) -> dict[str, Any]:
    """Every key of a job with its value, defaults included, as JSON can hold it."""
    return job.model_dump(mode="json")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted({*path.parent.glob("*.toml"), *Path("jobs").glob("**/*.toml")})
        names = [str(file) for file in near if file.name != "pyproject.toml"][:MOST_NEARBY_FILES]
        remedy = choose(str(path), names) if names else "write the path of a job file"
        raise JobError([f"{path}: no such job file; {remedy}"])
    if path.suffix == ".json":
        return _read_resolved(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise JobError([f"{path}: not a text file ({error.reason} at byte {error.start}); write TOML"]) from None
    except tomllib.TOMLDecodeError as error:
        raise JobError([f'{path}: not TOML: {error}; write such as `name = "my-run"`, texts in quotes']) from None


def _read_resolved(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise JobError([f"{path}: not JSON: {error}; write a job in TOML, or name a run's job.resolved.json"]) from None
    if not isinstance(found, dict):
        raise JobError([f"{path}: no job; write one in TOML, or name a run's job.resolved.json"])
    return found


def _keep_texts(raw: dict[str, Any], overrides: Sequence[Override]) -> None:
    """`--set name=2024` is TOML for a number; where the key holds a text, take what was typed as the text."""
    for override in overrides:
        field: Any = JobSpec
        for part in override.key.split("."):
            fields = getattr(field, "model_fields", {})
            field = fields[part].annotation if part in fields else None
        if field is str and not isinstance(override.value, str | dict | list):
            place(raw, override.key, override.raw)


def _build(raw: dict[str, Any], catalog: Path) -> tuple[JobSpec, list[Problem]]:
    """A job and all its problems. Refused values are put aside, so that one typo does not hide the next problem."""
    job, found = _validated(JobSpec, raw)
    recipes, groups, many_sizes, least = recipe_names(catalog), None, True, (1, "")
    bad = {problem.key for problem in found}
    if "recipe" not in bad and job.recipe not in recipes:
        found.append(Problem("recipe", "unknown recipe", choose(job.recipe, recipes), job.recipe))
    elif not bad & {"recipe", "model"}:
        settings = settings_of(job.recipe, catalog)
        model, more = _validated(settings, job.model, "model.")
        found += more
        groups, many_sizes, least = zero_max(model), learns_many_sizes(settings), least_micro_batch(model)
        job = job.model_copy(update={"model": model.model_dump(mode="json")})
    doubtful = {key for problem in found for key in (problem.key, problem.meant, *problem.concerns) if key}
    found += [
        problem
        for problem in limit_problems(job, groups, learns_many_sizes=many_sizes, least_micro_batch=least)
        if not any(_touches(key, doubt) for key in (problem.key, *problem.concerns) for doubt in doubtful)
    ]
    return job, found


def missing_folders(job: JobSpec, catalog: Path = CATALOG) -> list[Problem]:
    """Of networks that the recipe reads, which a cluster's machines may have though this one has not."""
    if job.cluster.address:
        return []
    what, remedy = "no such folder on this machine", "put the network there, or name the folder that it is in"
    return [
        Problem(f"model.{name}", what, remedy, folder)
        for name in folder_keys(settings_of(job.recipe, catalog))
        if (folder := job.model.get(name)) and not Path(folder).is_dir()
    ]


def _touches(key: str, doubt: str) -> bool:
    return f"{key}.".startswith(f"{doubt}.") or f"{doubt}.".startswith(f"{key}.") or doubt.startswith(f"{key}[")


def _validated(spec: type[Spec], raw: Mapping[str, Any], prefix: str = "") -> tuple[Any, list[Problem]]:
    """The spec of `raw`; where keys are refused, that of the rest, with examples for what is missing."""
    try:
        return _strict(spec, raw), []
    except ValidationError as error:
        found = explain.problems(error, spec, prefix)
    rest = json.loads(_as_json(raw))
    for problem in found:
        path = problem.key.removeprefix(prefix).partition("[")[0].split(".")
        _replace(rest, path, spec)
    try:
        return _strict(spec, rest), found
    except ValidationError:  # refused as a whole, such as by a rule over two settings
        return spec.model_construct(), found


def _replace(table: dict[str, Any], path: Sequence[str], spec: Any) -> None:
    """Take one refused key out; a required one gets its example."""
    for part in path[:-1]:
        field = getattr(spec, "model_fields", {}).get(part)
        spec = field.annotation if field else None
        if not isinstance(table.setdefault(part, {}), dict):
            table[part] = {}
        table = table[part]
    table.pop(path[-1], None)
    field = getattr(spec, "model_fields", {}).get(path[-1])
    if field is not None and field.is_required():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Spec):
            required = {name: entry for name, entry in inner.model_fields.items() if entry.is_required()}
            table[path[-1]] = {name: explain.example_of(entry) for name, entry in required.items()}
        else:
            table[path[-1]] = explain.example_of(field)


def _strict(spec: type[Spec], raw: Mapping[str, Any]) -> Any:
    """Validated as JSON: no guessing of types ("64" is not 64), and a list may fill a tuple."""
    return spec.model_validate_json(_as_json(raw), strict=True)


def _as_json(raw: Mapping[str, Any]) -> str:
    return json.dumps(raw, default=str)


def _line(problem: Problem, overrides: Sequence[Override], job_file: str) -> str:
    origin = origin_of(problem, overrides)
    if origin is None:
        return problem.line(job_file)
    exact = origin.key == problem.key
    return f"{origin.origin}: {problem.verdict}" if exact else problem.line(origin.origin)
