"""MLflow's tables in a new SQLite file, as MLflow makes them. It makes them by dozens of migrations, seconds of a core
each time: here it does so once for all tests, and each test has a copy.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient


def put_tables(database: Path) -> Path:
    """Makes the file, unless it is there; gives it back."""
    folder = Path(tempfile.gettempdir()) / f"gen-dist-tests-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    made = folder / f"mlflow-{mlflow.__version__}.db"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not made.exists():
            new = folder / "new.db"
            new.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{new}").search_experiments()
            new.rename(made)
    database.parent.mkdir(parents=True, exist_ok=True)
    if not database.exists():
        shutil.copyfile(made, database)
    return database
