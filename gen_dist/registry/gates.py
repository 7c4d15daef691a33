"""What a model must show before it becomes champion: the gates of its job, each passed or failed with what was seen."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from gen_dist.registry import connection
from gen_dist.registry.evaluated import Score, scores
from gen_dist.registry.lineage import GATES_TAG
from gen_dist.registry.registered import Registered
from gen_dist.registry.reload import reload_result

GRIDS = "images"  # of a run's artifacts
_GRID_IMAGES = re.compile(r"samples\+step\+(\d+)\+")
_REFUSED_IN_KEYS = re.compile(r"[^\w\-./ :]", re.ASCII)


@dataclass(frozen=True)
class Result:
    """What one gate said."""

    gate: str
    passed: bool
    seen: str
    """And, where it failed, what to do."""

    @property
    def line(self) -> str:
        """For a person."""
        return f"{self.gate}: {self.seen}"

    def facts(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


def run_gates(registered: Registered, version: Any, champion: Any | None) -> list[Result]:
    """The gates that were kept with a version, run now. `champion` is the version to compare with, if there is one."""
    wanted = json.loads(version.tags.get(GATES_TAG, "{}"))
    found = scores(registered.client, version)
    theirs = scores(registered.client, champion) if champion is not None else {}
    results = [*_metric_gates(wanted, found, images=version.tags.get("images", "?"))]
    if wanted.get("better_than_champion"):
        results += _champion_gates(wanted, found, theirs, str(champion.version) if champion is not None else "")
    if wanted.get("sample_grid"):
        results.append(_grid_gate(registered.client, version))
    if wanted.get("bit_equal_reload", True):
        results.append(Result("bit_equal_reload", *reload_result(registered, version)))
    return results


def note(client: MlflowClient, version: Any, results: list[Result]) -> None:
    """Keep each result as a tag of the version."""
    for result in results:
        key = _REFUSED_IN_KEYS.sub("_", f"gate.{result.gate}")[:250]
        said = "passed" if result.passed else "failed"
        client.set_model_version_tag(version.name, str(version.version), key, f"{said}: {result.seen}")


def _metric_gates(wanted: Mapping[str, Any], found: Mapping[str, Score], *, images: str) -> Iterator[Result]:
    for table, words in (("at_least", "at least"), ("at_most", "at most")):
        for metric, bound in wanted.get(table, {}).items():
            gate = f"{metric} {words} {bound:g}"
            if metric not in found:
                yield Result(gate, False, _unmeasured(metric, found, images))
                continue
            value = found[metric].value
            yield Result(gate, value >= bound if table == "at_least" else value <= bound, f"it is {value:.6g}")


def _champion_gates(
    wanted: Mapping[str, Any], found: Mapping[str, Score], theirs: Mapping[str, Score], champion: str
) -> Iterator[Result]:
    for table, words in (("at_least", "higher"), ("at_most", "lower")):
        for metric in wanted.get(table, {}):
            gate = f"{metric} {words} than champion"
            if not champion:
                yield Result(gate, True, "there is no champion yet")
                continue
            if metric not in found or metric not in theirs:
                whose = "this version" if metric not in found else f"champion {champion}"
                yield Result(gate, False, f"{whose} has no such score; evaluate both, or promote with --force")
                continue
            mine, other = found[metric], theirs[metric]
            if mine.measured_on != other.measured_on:
                seen = f"measured on {mine.measured_on}, champion {champion} on {other.measured_on}"
                yield Result(gate, False, f"{seen}; evaluate both on the same, or promote with --force")
                continue
            better = mine.value > other.value if table == "at_least" else mine.value < other.value
            yield Result(gate, better, f"it is {mine.value:.6g}, champion {champion} has {other.value:.6g}")


def _unmeasured(metric: str, found: Mapping[str, Score], images: str) -> str:
    there = ", ".join(sorted(found)) or "nothing"
    return (
        f"not measured after {images} images, only {there}; let train.sample_every_images fall on the checkpoint, or"
        " correct the name in the job"
    )


def _grid_gate(client: MlflowClient, version: Any) -> Result:
    images = version.tags.get("images", "?")
    try:
        paths = [artifact.path for artifact in client.list_artifacts(version.run_id, GRIDS)]
    except MlflowException as error:
        if connection.passes(error):
            raise
        paths = []
    except FileNotFoundError:
        paths = []
    there = sorted({int(part) for path in paths for part in _GRID_IMAGES.findall(path)})
    if images.isdigit() and int(images) in there:
        return Result("sample_grid", True, f"drawn after {images} images")
    shown = ", ".join(map(str, there[-3:])) or "none"
    return Result(
        "sample_grid",
        False,
        f"the run has no grid of {images} images, the newest are {shown}; let train.sample_every_images fall on it",
    )
