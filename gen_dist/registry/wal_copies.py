"""The log of a run beside its checkpoints: what a driver on another machine, or after a lost disk, goes on from."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from gen_dist.registry.wal import WAL, segments
from gen_dist.store import ObjectInfo, Store, StoreError

PATTERN = f"{WAL}/*.jsonl"
HEAD_BYTES = 1024  # in which two logs differ: the first line has its time


def upload_wal(run_folder: Path, store: Store) -> int:
    """Copy what the store lacks of the log to `wal/` there; how many files that were. Raises: StoreError, OSError.

    A file that is being written is copied up to its last whole line, and again when it has grown.
    """
    there = {info.name: info.size_bytes for info in _listed(store)}
    num_copied = 0
    for path in segments(run_folder / WAL):
        name = f"{WAL}/{path.name}"
        copied_bytes = there.get(name, 0)
        if path.stat().st_size == copied_bytes:
            continue
        data = path.read_bytes()
        data = data[: data.rfind(b"\n") + 1]
        if len(data) <= copied_bytes:
            continue
        head_bytes = min(HEAD_BYTES, copied_bytes)
        if head_bytes and store.read(name, 0, head_bytes) != data[:head_bytes]:
            raise StoreError(
                f"{store.url}/{name}: the log of another run, not overwritten; give this run a name of its own"
            )
        store.write(name, data)
        num_copied += 1
    return num_copied


def download_wal(run_folder: Path, store: Store) -> int:
    """Fetch what the folder lacks of the log; how many files that were. Raises: StoreError, OSError.

    No line that is here is lost: a file is only replaced by one that goes on where it ends.
    """
    folder = run_folder / WAL
    num_fetched = 0
    for info in _listed(store):
        path = folder / Path(info.name).name
        here = path.stat().st_size if path.is_file() else 0
        if here >= info.size_bytes:
            continue
        data = store.read(info.name)
        if here and not data.startswith(path.read_bytes()):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".tmp")
        draft.write_bytes(data)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
        num_fetched += 1
    return num_fetched


class WalCopies:
    """Copies the log in the background, one pass at a time. Never raises; what failed is copied with the next pass."""

    def __init__(self, run_folder: Path, store: Store | None) -> None:
        """`store`: where the checkpoints are; None where that is the run folder, which holds the log already."""
        self._folder, self._store = run_folder, store
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self.trouble: str | None = None
        """Why the last pass failed; None while all is well."""
        self._thread = threading.Thread(target=self._work, name="wal-copies", daemon=True)

    def fetch(self) -> None:
        """Bring what this folder lacks. Before anything is written to the log."""
        if self._store is None:
            return
        try:
            download_wal(self._folder, self._store)
        except (StoreError, OSError) as error:
            self.trouble = f"the log of earlier attempts was not fetched: {error}"

    def ask(self) -> None:
        """Copy what is new, some time soon."""
        if self._store is None:
            return
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
        if self._thread.ident is None:
            self._thread.start()

    def finish(self, timeout_s: float) -> bool:
        """Copy what is new; False where that took too long or failed."""
        if self._store is None:
            return True
        self.ask()
        with self._changed:
            return self._changed.wait_for(lambda: self._done == self._asked, timeout_s) and self.trouble is None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._done)
                asked = self._asked
            self.trouble = self._pass()
            with self._changed:
                self._done = asked
                self._changed.notify_all()

    def _pass(self) -> str | None:
        assert self._store is not None
        try:
            upload_wal(self._folder, self._store)
        except (StoreError, OSError) as error:
            return f"the log was not copied: {error}"
        return None


def _listed(store: Store) -> list[ObjectInfo]:
    try:
        return store.list(PATTERN)
    except StoreError:
        if "://" in store.url:
            raise
        return []  # a folder that is made with its first file
