"""Cursor: how much of a run's log each MLflow server holds, kept in `mlflow.json` of the run folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gen_dist.registry.errors import RegistryError
from gen_dist.registry.secrets import without_secrets
from gen_dist.registry.wal import WAL, WalReader, rows

CURSOR = "mlflow.json"
LOCK = ".mlflow.lock"
LOCK_POLL_S = 0.2
LINES_AT_ONCE = 1_000


class Cursor:
    """What one server holds: `runs`, MLflow's names of the runs there, and `history`, the state to go on from.

    Each server has its own, so that a log can be sent to another server and back.
    """

    def __init__(self, run_folder: Path, tracking_uri: str) -> None:
        self._path = run_folder / CURSOR
        self._server = without_secrets(tracking_uri)
        kept = self._read()
        found = kept.get("servers", {}).get(self._server, {})
        self.runs: dict[str, str] = dict(found.get("runs", {}))
        self.history: dict[str, Any] = dict(found.get("history", {}))

    def save(self, history: Mapping[str, Any], run_id: str | None) -> None:
        """Note what is there by now. Where the disk is full, or someone is killed meanwhile, the note before stays."""
        self.history = dict(history)
        kept = self._read()
        servers = kept.get("servers", {})
        servers[self._server] = {"runs": self.runs, "history": self.history}
        facts = {"tracking_uri": self._server, "run_id": run_id, "servers": servers}
        draft = self._path.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # then more is sent again than need be
            draft.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            draft.replace(self._path)

    def forget(self) -> None:
        """Begin again: what was there is gone."""
        self.runs, self.history = {}, {}

    def _read(self) -> dict[str, Any]:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}


def recorded_run(run_folder: Path, tracking_uri: str) -> str | None:
    """MLflow's name of the run, where it has one at that server."""
    runs = Cursor(run_folder, tracking_uri).runs
    curves = sorted((name for name in runs if name.startswith("history-")), key=lambda name: int(name.split("-")[1]))
    return runs[curves[-1]] if curves else None


def unsent_rows(run_folder: Path, tracking_uri: str) -> int:
    """Points and other lines of the log that the server does not have for certain, on its curve and in its attempts."""
    reader = WalReader(run_folder / WAL, Cursor(run_folder, tracking_uri).history.get("offsets", {}))
    num_rows = 0
    while entries := reader.read(LINES_AT_ONCE):
        num_rows += sum(rows(entry.event) for entry in entries)
    return num_rows


@contextlib.contextmanager
def only_sender(run_folder: Path, *, wait_s: float) -> Iterator[None]:
    """Keeps other processes from sending the same log. Raises: RegistryError where one still does after `wait_s`."""
    handle = os.open(run_folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    give_up_s = time.monotonic() + wait_s
    try:
        while not _locked(handle):
            if time.monotonic() >= give_up_s:
                raise RegistryError(
                    f"{run_folder}: another process sends its log to MLflow, as a run does while it trains; wait for it"
                )
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network disks lock no files
        return True
    return True
