"""Does MLflow answer and let us write: an experiment, a run, a point, a file. What was written is removed again.

It is done in a process of its own, which can be ended. `gen_dist.registry` keeps MLflow's client from waiting minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gen_dist.cluster.checks.finding import Finding, ok, wrong
from gen_dist.cluster.checks.places import LateError, ProcessError, ask_process
from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.registry.secrets import without_secrets
from gen_dist.store import StoreError
from gen_dist.store.local import LocalStore
from gen_dist.store.probe import probe
from gen_dist.train.footprint import nearest

CHECK = "mlflow"
TRIAL = "gen_dist.cluster.checks.try_mlflow"
LIMIT_S = 30.0
AFTERWARDS = "the run itself would go on, and `gen-dist track RUN` sends its record later"
RIGHTS = "give its user the right to edit the experiment (MLFLOW_TRACKING_USERNAME and _PASSWORD, or _TOKEN, name it)"


def look(job: JobSpec) -> dict[str, Any]:
    """Tries to write. Raises: StoreError, LateError, ProcessError."""
    uri = arithmetic.tracking_uri(job)
    database = _database_to_be(uri)
    if database is not None:
        probe(LocalStore(nearest(database.parent)))
        return {"made_later": True}
    question = {"uri": uri, "experiment": job.tracking.experiment}
    return ask_process(TRIAL, question, limit_s=LIMIT_S, env={})


def judge(job: JobSpec, seen: dict[str, Any] | BaseException) -> Finding:
    """What `look` gave, or met."""
    uri = without_secrets(arithmetic.tracking_uri(job))
    if isinstance(seen, StoreError):
        return wrong(CHECK, str(seen))
    if isinstance(seen, LateError | ProcessError):
        return wrong(CHECK, f"MLflow at {uri}: {seen}; check tracking.uri and that the server answers; {AFTERWARDS}")
    if isinstance(seen, BaseException):
        return wrong(CHECK, f"MLflow at {uri}: {seen or type(seen).__name__}; check tracking.uri; {AFTERWARDS}")
    if seen.get("made_later"):
        return ok(CHECK, f"{uri}: the run makes it, and may write there")
    if "error" in seen:
        remedy = RIGHTS if seen["status"] in (401, 403) else "check tracking.uri and that the server answers"
        return wrong(CHECK, f"{seen['error']} (while {seen['step']}); {remedy}; {AFTERWARDS}", status=seen["status"])
    experiment = f"experiment {job.tracking.experiment!r}"
    done = f"a run, a point and a file written and removed in {seen['seconds']:.1f} s"
    return ok(CHECK, f"{uri}: {experiment}, {done}", seconds=round(seen["seconds"], 2))


def _database_to_be(uri: str) -> Path | None:
    """A SQLite file that is not there yet: the run makes it, which takes seconds that nobody need spend twice."""
    scheme, _, path = uri.partition(":///")
    database = Path(path.partition("?")[0]).absolute()
    return database if scheme == "sqlite" and not database.exists() else None
