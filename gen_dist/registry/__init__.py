"""The record of a run: MLflow hears what happens, keeps the model, and gives it back by name.

MLflow reads these variables when it is imported, and every module here that imports it is imported after this one.
What a person has set stays. Its own defaults would hold a run for 247 s per call while a server is down.
"""

import os

_SURROUNDINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # or a uv.lock in the current folder would travel with a model
    "GIT_PYTHON_REFRESH": "quiet",
}
for _name, _value in _SURROUNDINGS.items():
    os.environ.setdefault(_name, _value)
