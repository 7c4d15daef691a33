"""Saver: a worker's checkpoints, written beside the training, which waits for a copy in host memory and no longer."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from gen_dist.checkpoint.attempts import Notify, check_not_fenced, silent
from gen_dist.checkpoint.commit import Commit, MissedError, move_head
from gen_dist.checkpoint.errors import CheckpointError, FencedError
from gen_dist.checkpoint.keep import Keep, clear, prune
from gen_dist.checkpoint.layout import MAX_FILE_BYTES
from gen_dist.checkpoint.manifest import Manifest, Part
from gen_dist.checkpoint.names import Name
from gen_dist.checkpoint.piece import Piece
from gen_dist.checkpoint.snapshot import Live, Snapshot, Source
from gen_dist.checkpoint.write import Done, FileWriter
from gen_dist.store import Store, StoreError

log = logging.getLogger(__name__)

PATIENCE_S, HOLD_S = 300.0, 10.0
SLOWEST_BYTES_S = 500e3  # of one worker: a store that takes in less is as good as none
LOOK_S = 1.0
T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0


@dataclass(frozen=True)
class _Save:
    """One save under way."""

    name: Name
    number: int
    step: int
    facts: dict[str, Any]
    source: Source
    began_s: float
    deadline_s: float
    waited_s: float


class Saver:
    """One for each worker of a group; all of them call `save` at the same points of the run.

    `store`: that of the run's checkpoints. `parent`: the checkpoint that the run went on from. `keep`: what retention
    leaves. `alarm_after`: missed commits in a row after which the event `checkpoint_alarm` is sent with each further
    one. `patience_s`: how long a store may be in trouble within one save; `hold_s`: how long while training waits for
    it. A store that is slow and well has that and the time that the bytes take at 0.5 MB/s. `on_wait` is called about
    once a second while training waits for a save that may still come about.

    Events, of the leader alone and from another thread: `checkpoint`, `checkpoint_missed`, `checkpoint_alarm`,
    `checkpoint_without_snapshot`, `checkpoints_removed`, `fenced`; those that a person should see have a line
    `warning`. `at`, for tests, is called with the name of each stage as it begins.
    """

    def __init__(
        self,
        store: Store,
        *,
        attempt: int,
        rank: int,
        world_size: int,
        parent: str | None = None,
        keep: Keep | None = None,
        alarm_after: int = 3,
        patience_s: float = PATIENCE_S,
        hold_s: float = HOLD_S,
        max_file_bytes: int = MAX_FILE_BYTES,
        on_event: Notify = silent,
        on_wait: Callable[[], object] = lambda: None,
        at: Callable[[str], object] = lambda stage: None,
    ) -> None:
        self._store, self._attempt, self._rank, self._world_size = store, attempt, rank, world_size
        self._keep, self._alarm_after = keep, alarm_after
        self._patience_s, self._hold_s = patience_s, hold_s
        self._on_event, self._on_wait, self._at = on_event, on_wait, at
        self._place: dict[str, int] = {"rank": rank, "max_file_bytes": max_file_bytes}
        self._snapshot = Snapshot(**self._place)
        self._flight: threading.Thread | None = None
        self._copied = threading.Event()  # all of the save under way
        self._copied.set()
        self._still_s = 0.0  # that training waited for the copy of the save under way
        self._deadline_s = 0.0  # of the save under way
        self._fenced: FencedError | None = None
        self._last_images = -1
        self._succeeded = True
        self._waited_s = 0.0  # for the save to come
        self._held_since_s: float | None = None  # training waits for the save under way
        self._unsure: set[Name] = set()  # missed saves whose manifest may yet come to be there
        self.num_saves = 0
        self.missed_in_a_row = 0
        """Commits that did not come about since the last one that did; on the leader."""
        self.waited_s = 0.0
        """Seconds that training waited for an earlier save to end (back-pressure), in all."""
        self.snapshot_s = 0.0
        """Seconds that training waited for copies into host memory, in all."""
        self.committed = parent
        """The newest checkpoint of this run that is committed; on the leader."""

    def save(self, images: int, step: int, pieces: Sequence[Piece], facts: Mapping[str, Any]) -> None:
        """Begins a checkpoint of the state as it is now; `facts` are those of the leader, JSON alone.

        Returns once the pieces are copied, but for those that last: call `settle` before they change. One save is under
        way at a time: a second one waits for it. A second one at the same point of the run is the first one. Trouble
        with the store is told through events alone. Raises: FencedError where a newer worker group has begun, and
        CheckpointError for pieces that cannot be written.
        """
        self.wait()
        began_s = time.monotonic()
        if self._fenced is not None:
            raise self._fenced
        if images == self._last_images:
            return
        self._at("snapshot")
        try:
            kept = json.loads(json.dumps(dict(facts)))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"facts of the checkpoint at {images} images: {error}; give JSON alone") from None
        source = self._taken(pieces)
        self._still_s = 0.0
        self._stood_still(since_s=began_s)
        self.num_saves += 1
        self._last_images, self._succeeded = images, False
        size_bytes = sum(file.size_bytes for file in source.layout.files)
        self._deadline_s = began_s + self._patience_s + size_bytes / SLOWEST_BYTES_S
        save = _Save(
            name=Name(images, self._attempt),
            number=self.num_saves,
            step=step,
            facts=kept,
            source=source,
            began_s=began_s,
            deadline_s=self._deadline_s,
            waited_s=self._waited_s,
        )
        self._waited_s = 0.0
        self._flight = threading.Thread(target=self._fly, args=(save,), name="gen-dist-checkpoint", daemon=True)
        self._copied.clear()
        try:
            self._flight.start()
        except RuntimeError:  # no more threads
            self._copied.set()
            raise
        if isinstance(source, Live):  # the pieces must not change meanwhile
            self._hold(self._flight)

    @property
    def is_settled(self) -> bool:
        """Whether all pieces of the last save may change."""
        return self._copied.is_set()

    def settle(self) -> None:
        """Waits until those pieces of the last save that last are copied too."""
        began_s = time.monotonic()
        if not self.is_settled:
            self._copied.wait()
            self._stood_still(since_s=began_s)

    def _stood_still(self, *, since_s: float) -> None:
        seconds = time.monotonic() - since_s
        self._still_s += seconds
        self.snapshot_s += seconds

    def wait(self) -> None:
        """Waits for the save under way, as `save` does: after it, `is_fenced` is what `save` would go by."""
        waiting_s = time.monotonic()
        if self._flight is not None:
            self._hold(self._flight)
        self._waited_s += time.monotonic() - waiting_s
        self.waited_s += time.monotonic() - waiting_s

    def _hold(self, flight: threading.Thread) -> None:
        """Training waits for the save under way, and the save knows it."""
        self._held_since_s = time.monotonic()
        self._join(flight, until_s=float("inf"))
        self._held_since_s = None

    def _join(self, flight: threading.Thread, *, until_s: float) -> None:
        while flight.is_alive() and time.monotonic() < until_s:
            flight.join(min(LOOK_S, max(0.0, until_s - time.monotonic())))
            if time.monotonic() < self._deadline_s:
                self._on_wait()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Waits for the save under way, None: as long as one may take. Whether nothing is left and it succeeded.

        On the leader that is its commit, on the others that their files are written.
        """
        if self._flight is not None:
            until_s = self._deadline_s + self._patience_s if timeout_s is None else time.monotonic() + timeout_s
            self._join(self._flight, until_s=until_s)
            if self._flight.is_alive():
                return False
        return self._succeeded and self._fenced is None

    def close(self) -> None:
        """Ends without waiting; what is under way is lost with the process, unless `flush` was called before."""
        self._flight = None

    @property
    def is_fenced(self) -> bool:
        """Whether a newer worker group was seen."""
        return self._fenced is not None

    def _taken(self, pieces: Sequence[Piece]) -> Source:
        """A copy of the pieces; where there is no memory for one the pieces themselves, and training must wait."""
        try:
            self._snapshot.take(pieces)
        except MemoryError as error:
            self._snapshot = Snapshot(**self._place)
            warning = f"no room for a snapshot ({error}); training stands still until the checkpoint is written"
            log.warning("event=checkpoint_without_snapshot rank=%d reason='%s'", self._rank, error)
            self._tell("checkpoint_without_snapshot", warning=warning)
            return Live(pieces, **self._place)
        return self._snapshot

    def _fly(self, save: _Save) -> None:
        """All that happens beside the training. Never raises."""
        try:
            self._finish(save.source)
            self._trying(lambda: check_not_fenced(self._store, self._attempt), save.deadline_s)
            if self.missed_in_a_row:
                self._clear(save.name.images - 1)  # again: by now no slow worker writes to those any more
            self._write(save)
            if self._rank == 0:
                self._commit(save)
            self._succeeded = True
        except FencedError as error:
            self._fenced = error
            self._tell("fenced", warning=str(error))
        except (MissedError, StoreError, CheckpointError) as error:
            self._miss(save, str(error))
        except Exception as error:
            log.exception("event=checkpoint_failed name=%s", save.name)
            self._miss(save, f"{type(error).__name__}: {error}")

    def _finish(self, source: Source) -> None:
        try:
            self._at("copy")
            source.finish()
        finally:
            self._copied.set()  # training is not held by a save that fails

    def _write(self, save: _Save) -> None:
        files = FileWriter(self._store, save.name, save.source)
        part = self._trying(lambda: files.write(self._at), save.deadline_s)
        self._at("done")
        done = Done(self._rank, save.number, part).to_bytes()
        self._trying(lambda: self._store.write(save.name.done(self._rank), done), save.deadline_s)

    def _give_up(self, save: _Save, why: str) -> None:
        """Tells the leader, so that it does not wait for us; through more trouble of the store, if need be."""
        if self._rank > 0:
            self._at("give up")
            done = Done(self._rank, save.number, Part(), error=why).to_bytes()
            try:
                self._trying(lambda: self._store.write(save.name.done(self._rank), done), save.deadline_s)
            except StoreError as error:
                log.warning("event=checkpoint_failed rank=%d name=%s reason='%s'", self._rank, save.name, error)

    def _commit(self, save: _Save) -> None:
        commit = Commit(
            self._store,
            save.name,
            save=save.number,
            step=save.step,
            world_size=self._world_size,
            parent=self.committed,
            facts=save.facts,
        )

        def at(stage: str) -> None:
            if stage == "publish":
                self._unsure.add(save.name)
            self._at(stage)

        manifest, sha256 = self._trying(lambda: commit.run(at, deadline_s=save.deadline_s), save.deadline_s)
        self._unsure.discard(save.name)
        self.missed_in_a_row = 0
        self.committed = str(save.name)
        self._tell(
            "checkpoint",
            name=str(save.name),
            images=save.name.images,
            step=save.step,
            attempt=self._attempt,
            size_bytes=manifest.contents.size_bytes,
            manifest_sha256=sha256,
            snapshot_s=round(self._still_s, 4),
            waited_s=round(save.waited_s, 4),
            seconds=round(time.monotonic() - save.began_s, 4),
        )
        self._after(save, manifest)

    def _after(self, save: _Save, manifest: Manifest) -> None:
        """What is good to do after a commit; the checkpoint is there whether or not it succeeds."""
        try:
            self._at("head")
            move_head(self._store, save.name)
            if self._keep is not None:
                self._at("prune")
                removed = prune(self._store, self._keep, attempt=self._attempt, at=self._at)
                if removed:
                    size_bytes = sum(one.size_bytes for one in removed)
                    names = [str(one.name) for one in removed]
                    self._tell("checkpoints_removed", names=names, size_bytes=size_bytes)
        except (StoreError, CheckpointError) as error:
            log.warning("event=checkpoint_cleaning_failed name=%s reason='%s'", manifest.name, error)

    def _miss(self, save: _Save, why: str) -> None:
        self.missed_in_a_row += 1
        log.warning("event=checkpoint_missed rank=%d name=%s reason='%s'", self._rank, save.name, why)
        number = f"{self.missed_in_a_row} in a row"
        facts = {"name": str(save.name), "images": save.name.images, "missed_in_a_row": self.missed_in_a_row}
        self._tell("checkpoint_missed", **facts, warning=f"no checkpoint at {save.name.images} images: {why}")
        if self.missed_in_a_row >= self._alarm_after:
            newest = self.committed or "none"
            warning = f"{number} checkpoints were not committed, the newest is {newest}; mend the store: {why}"
            self._tell("checkpoint_alarm", **facts, warning=warning)
        self._give_up(save, why)
        self._clear(save.name.images)

    def _clear(self, images: int) -> None:
        """Makes room: what missed saves have written may be what the next one lacks on a full disk. By the leader."""
        if self._rank == 0:
            try:
                clear(self._store, attempt=self._attempt, images=images, but=self._unsure)
            except StoreError as error:
                log.warning("event=checkpoint_cleaning_failed attempt=%d reason='%s'", self._attempt, error)

    def _trying(self, step: Callable[[], T], deadline_s: float) -> T:
        """What `step` gives in the end; a store is asked again through `patience_s` of trouble.

        While training waits for it that is `hold_s` of trouble: the state of now is worth more than that of then.
        """
        wait_s, trouble_since_s = FIRST_WAIT_S, None
        while True:
            try:
                return step()
            except StoreError as error:
                now_s = time.monotonic()
                trouble_since_s = trouble_since_s or now_s
                held_s = self._held_since_s
                until_s = trouble_since_s + self._patience_s
                if held_s is not None:
                    until_s = max(held_s, trouble_since_s) + self._hold_s
                if now_s + wait_s > min(until_s, deadline_s):
                    raise
                log.warning("event=checkpoint_retry rank=%d reason='%s'", self._rank, error)
            time.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)

    def _tell(self, kind: str, **facts: object) -> None:
        """Tells of an event; a listener that fails is none of training's business."""
        try:
            if self._rank == 0:
                self._on_event(kind, **facts)
        except Exception:
            log.exception("event=listener_failed kind=%s", kind)
