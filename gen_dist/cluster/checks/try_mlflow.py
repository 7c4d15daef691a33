"""What a run does with MLflow, in small: `python -m` this file reads where from its standard input, and answers."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

from mlflow.entities import Metric
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from gen_dist.registry import connection

FILE = "doctor.txt"


def attempt(uri: str, experiment: str) -> dict[str, Any]:
    """What a run does with MLflow, in small. Raises nothing: an error is told with the step that met it."""
    began_s, step, run_id = time.monotonic(), "connecting", ""
    client = connection.connect(uri)
    try:
        step = "looking for the experiment, or making it"
        number = connection.experiment_id(client, experiment, uri)
        step = "making a run"
        run_id = client.create_run(number, run_name="gen-dist-doctor").info.run_id
        step = "writing a point"
        client.log_batch(run_id, metrics=[Metric("doctor", 1.0, 0, 0)], synchronous=True)
        step = "writing a file of the run"
        client.log_text(run_id, "by gen-dist doctor\n", FILE)
        _remove_files(client, run_id)
        step = "reading the model registry"
        client.search_registered_models(max_results=1)
        step = "removing the run"
        client.delete_run(run_id)
    except Exception as error:  # noqa: BLE001  whatever MLflow raises is the finding
        with contextlib.suppress(Exception):
            if run_id:
                client.delete_run(run_id)
        status = getattr(error, "get_http_status_code", lambda: 0)()
        return {"error": connection.one_line(error, uri), "step": step, "status": status}
    return {"seconds": time.monotonic() - began_s}


def _remove_files(client: Any, run_id: str) -> None:
    """A deleted run keeps its files until somebody collects them: ours goes at once, where the server lets it."""
    with contextlib.suppress(Exception):
        folder = client.get_run(run_id).info.artifact_uri
        get_artifact_repository(folder, tracking_uri=client.tracking_uri).delete_artifacts(FILE)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(attempt(asked["uri"], asked["experiment"])))  # noqa: T201  the answer
