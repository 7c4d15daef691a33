"""A whole pack: list the source, fix the plan, make the shards that are missing in parallel, report."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gen_dist.data.errors import DataError
from gen_dist.data.pack.detect import list_source
from gen_dist.data.pack.listing import Entry, LeftOut, Listing
from gen_dist.data.pack.options import HELDOUT, PackOptions, SourceSpec
from gen_dist.data.pack.plan import ShardPlan, ShardState, finished, identity, ordered, plan_shards, store_plan
from gen_dist.data.pack.plan import stored_plan as find_plan
from gen_dist.data.pack.shard import ROOM, Task, mean_sample_bytes, write_shard
from gen_dist.store import Store, open_store
from gen_dist.store.local import make_folder

REPORT = "pack.report.json"
LONGEST_LIST = 10_000  # of left-out samples in the report; all of them are in pack/SHARD.json
TELL_EVERY_S = 0.5
STOP = "stop"  # a file in the working folder: the pack ends


@dataclass(frozen=True)
class Progress:
    """How far a pack is."""

    num_samples: int
    total_samples: int
    num_shards: int
    total_shards: int


@dataclass(frozen=True)
class Packed:
    """What a pack ends with; `facts` is what `pack.report.json` holds."""

    facts: dict[str, Any]


class _Stopped(Exception):  # noqa: N818 - no error: the pack ends, and this shard with it
    """Raised in a process of the packer between two samples."""


def pack(
    spec: SourceSpec,
    dest: str,
    *,
    options: PackOptions,
    num_workers: int,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> Packed:
    """Packs what is not packed yet. The same call again goes on where the last one was ended, however it was.

    Raises: DataError, StoreError; each names the remedy.
    """
    _refuse_nested(spec.url, dest)
    store = open_store(dest, spec.s3)
    listing = list_source(spec)
    if not listing.entries:
        raise DataError(f"{spec.url}: no sample in it ({listing.about})", remedy="name a source with images")
    if "://" not in dest:
        make_folder(Path(dest))
    entries, num_train = ordered(listing.entries, options)
    about = identity(listing, entries, options)
    shards = find_plan(store, about)
    if shards is None:
        is_encoded = bool(options.size_px or options.quality) or options.format != "keep"
        mean_bytes = mean_sample_bytes(listing, options) if is_encoded else 0
        shards = plan_shards(entries, num_train, options, mean_bytes)
        store_plan(store, about, shards)
    states = finished(store, shards)
    missing = [shard for shard in shards if shard.name not in states]
    with _working_folder() as folder:
        num_threads = max(1, num_workers // max(1, len(missing)))
        tasks = (_task(shard, entries, listing, options, store, num_threads, Path(folder)) for shard in missing)
        counts = _Counts(shards, states, tell)
        made = _in_processes if min(num_workers, len(missing)) > 1 else _here
        how = {"num_tasks": len(missing), "num_workers": min(num_workers, len(missing))}
        with closing(made(tasks, counts, folder=Path(folder), **how)) as new:
            for state in new:
                states[state.name] = state
                counts.finished()
    facts = _facts(spec, dest, listing, [states[shard.name] for shard in shards])
    store.write(REPORT, json.dumps(facts, indent=1, ensure_ascii=False).encode("utf-8", "replace"))
    if not facts["packed"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["left_out"].items())
        raise DataError(f"{spec.url}: no sample could be packed ({reasons})", remedy=f"read {dest}/{REPORT}")
    return Packed(facts)


def _working_folder() -> TemporaryDirectory[str]:
    """Raises: DataError where this machine has none."""
    try:
        return TemporaryDirectory(prefix="gen-dist-pack-", ignore_cleanup_errors=True)
    except OSError as error:
        raise DataError(f"no folder for temporary files ({error.strerror or error})", remedy=ROOM) from error


def _refuse_nested(source: str, dest: str) -> None:
    if "://" in source or "://" in dest:
        inside = f"{dest.rstrip('/')}/".startswith(f"{source.rstrip('/')}/")
    else:
        inside = Path(dest).resolve().is_relative_to(Path(source).resolve())
    if inside:
        remedy = "write beside it: what is packed there would count as source the next time"
        raise DataError(f"the destination {dest} lies inside the source", remedy=remedy)


def _task(
    shard: ShardPlan,
    entries: Sequence[Entry],
    listing: Listing,
    options: PackOptions,
    store: Store,
    num_threads: int,
    folder: Path,
) -> Task:
    return Task(
        name=shard.name,
        entries=entries[shard.first : shard.end],
        reader=listing.reader,
        options=options,
        needs_caption=listing.has_captions and not options.allow_uncaptioned,
        store=store,
        num_threads=num_threads,
        folder=folder,
    )


class _Counts:
    """Samples and shards done, finished by an earlier start or now."""

    def __init__(
        self, shards: Sequence[ShardPlan], states: dict[str, ShardState], tell: Callable[[Progress], None]
    ) -> None:
        self._total = (sum(shard.end - shard.first for shard in shards), len(shards))
        self._before = sum(shard.end - shard.first for shard in shards if shard.name in states)
        self._num_shards = len(states)
        self._tell = tell
        self.at(0)

    def at(self, num_samples: int) -> None:
        total_samples, total_shards = self._total
        self._num_samples = num_samples
        self._tell(Progress(self._before + num_samples, total_samples, self._num_shards, total_shards))

    def finished(self) -> None:
        self._num_shards += 1
        self.at(self._num_samples)


def _here(
    tasks: Iterator[Task], counts: _Counts, *, folder: Path, num_tasks: int, num_workers: int
) -> Generator[ShardState, None, None]:
    num_done = 0

    def told() -> None:
        nonlocal num_done
        num_done += 1
        counts.at(num_done)

    for task in tasks:
        yield write_shard(task, told)


def _in_processes(
    tasks: Iterator[Task], counts: _Counts, *, folder: Path, num_tasks: int, num_workers: int
) -> Generator[ShardState, None, None]:
    """Shards as they become finished; a few tasks are on their way to the processes at a time."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "webdataset"])  # imports are paid for once, and not by every process
    # a number for each task, written by one process only: no lock that an interrupted process could keep
    num_done = context.RawArray("q", num_tasks)
    running: set[Future[ShardState]] = set()
    pool = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start, initargs=(num_done, folder, dict(os.environ))
    )
    numbered = enumerate(tasks)
    is_all = False
    try:
        while running or not is_all:
            while not is_all and len(running) < 2 * num_workers:
                number, task = next(numbered, (0, None))
                is_all = task is None
                if task is not None:
                    running.add(pool.submit(_write, number, task))
            done, running = wait(running, timeout=TELL_EVERY_S, return_when=FIRST_COMPLETED)
            counts.at(sum(num_done))
            yield from (future.result() for future in done)
    except BrokenProcessPool as error:
        what = "a process of the pack was ended from outside, by lack of memory for example"
        remedy = "give the same command with fewer --workers: finished shards are kept"
        raise DataError(what, remedy=remedy) from error
    finally:
        (folder / STOP).touch()
        pool.shutdown(wait=False, cancel_futures=True)  # what still runs ends at its next sample


_num_done: Any = None
_folder = Path()


def _start(num_done: Any, folder: Path, environment: dict[str, str]) -> None:
    """Runs once in each process: Ctrl-C is the parent's to handle, and its death is ours."""
    global _num_done, _folder
    _num_done, _folder = num_done, folder
    os.environ.update(environment)  # credentials, for one: the server that forks us has those of its own start
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()


def _end_with_parent(folder: Path) -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)


def _write(number: int, task: Task) -> ShardState:
    def told() -> None:
        if (_folder / STOP).exists() or not _folder.exists():
            raise _Stopped
        _num_done[number] += 1

    return write_shard(task, told)


def _facts(spec: SourceSpec, dest: str, listing: Listing, states: Sequence[ShardState]) -> dict[str, Any]:
    left_out: list[LeftOut] = [*listing.left_out, *(left for state in states for left in state.left_out)]
    held = [state for state in states if state.name.startswith(HELDOUT)]
    return {
        "source": spec.url,
        "taken_for": listing.about,
        "dest": dest,
        "packed": sum(state.num_samples for state in states),
        "heldout": sum(state.num_samples for state in held),
        "captions": listing.has_captions,
        "shards": sum(1 for state in states if state.num_samples),
        "size_bytes": sum(state.size_bytes for state in states),
        "left_out": dict(Counter(left.reason for left in left_out).most_common()),
        "left_out_samples": [left.facts() for left in left_out[:LONGEST_LIST]],
    }
