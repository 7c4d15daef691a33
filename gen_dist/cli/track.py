"""`gen-dist track`: the log of a run, sent to an MLflow server by hand."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gen_dist.registry.cursor import only_sender
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.flusher import Flusher
from gen_dist.registry.secrets import without_secrets
from gen_dist.registry.wal import WAL, segments

LINE_EVERY_S = 5.0


def run(run: str, *, tracking_uri: str, as_json: bool) -> dict[str, Any]:
    """Send all that the server lacks. Raises: RegistryError, StoreError."""
    if "://" in run and not tracking_uri:
        raise RegistryError(f"{run}: a log without its job; name MLflow's address with --tracking-uri")
    with ExitStack() as stack:
        folder = _fetched(run, stack) if "://" in run else Path(run)
        if not segments(folder / WAL):
            inside = "there is no such folder" if not folder.is_dir() else f"it has no log ({WAL}/*.jsonl)"
            raise RegistryError(f"{run}: {inside}; name the folder of a run, such as runs/quickstart")
        uri = tracking_uri or address(folder)
        stack.enter_context(only_sender(folder, wait_s=0.0))
        flusher = Flusher(folder, uri, origin=run if "://" in run else "")
        num_rows = flusher.lag_rows()
        _send(flusher, folder, quiet=as_json)
    facts = {"run_folder": run, "tracking_uri": without_secrets(uri), "rows": num_rows, "mlflow_run": flusher.run_id}
    if not as_json:
        print(f"{num_rows:,} rows sent; run {flusher.run_id} at {facts['tracking_uri']}")
    return facts


def _fetched(run: str, stack: ExitStack) -> Path:
    """A folder with the copy of the log that lies beside the checkpoints of a run."""
    from gen_dist.registry.wal_copies import download_wal
    from gen_dist.store import open_store

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gen-dist-")))
    download_wal(folder, open_store(run.rstrip("/")))
    return folder


def address(folder: Path) -> str:
    """MLflow's address as the run's job has it: `mlflow.db` beside the run, wherever that is now, if it names none."""
    resolved = folder / "job.resolved.json"
    try:
        uri = str(json.loads(resolved.read_text(encoding="utf-8"))["tracking"]["uri"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RegistryError(f"{resolved}: not there, or no job; name MLflow's address with --tracking-uri") from None
    known = os.environ.get("MLFLOW_TRACKING_URI", "")
    if without_secrets(known) == uri and uri:
        return known
    if "***" in uri:
        raise RegistryError(
            f"{resolved}: tracking.uri={uri}: its password is not kept; set MLFLOW_TRACKING_URI to the whole address"
        )
    return uri or f"sqlite:///{folder.resolve().parent}/mlflow.db"


def _send(flusher: Flusher, folder: Path, *, quiet: bool) -> None:
    said_s = time.monotonic()
    try:
        while flusher.step():
            if not quiet and time.monotonic() > said_s + LINE_EVERY_S:
                said_s = time.monotonic()
                print(f"{flusher.lag_rows():,} rows left", file=sys.stderr)
        flusher.close()
    except Exception as error:
        raise RegistryError(
            f"{flusher.line(error)}; {flusher.lag_rows():,} rows wait in {folder / WAL}, send them when MLflow is well"
        ) from error
