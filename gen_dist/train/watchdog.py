"""The step watchdog of one worker: what the worker is at and since when, told to the hub; stacks saved where it hangs.

The loop enters sections (`setup`, `data`, `step`, `samples`, `checkpoint`), each with its own limit. A thread of this
process tells the hub about once a second. Where the hub finds that the group hangs (`gen_dist.train.pulses`), every
worker saves the stacks of its threads to RUN/hang/attempt-000003/rank00001.txt and ends, and Ray starts a new group.
Behind it stands a timer in C: it saves the stacks and ends the process even where a thread holds the GIL for ever.

The times of the sections add up to what the worker did with its time: the ledger of goodput is made of them.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen_dist.train.pulses import Pulse

PULSE_S = 1.0
QUICK_PULSE_S = 0.2  # while the group ends
MOST_PULSES_A_SECOND = 200  # at the hub, over all workers
BEHIND_S = 3.0  # the timer in C comes this long after the limit: the thread goes first wherever it can
ALONE_S = 20.0  # beyond the limit, without an answer of the hub, a worker decides for itself
HANG_EXIT_CODE = 86
STEP_WINDOW = 31  # steps whose median is taken
MEDIAN_STEPS = 3
FIRST_STEPS = 3  # may be longer: kernels are chosen, caches filled
TIMES_LIMIT = {"setup": 20.0, "step": 1.0, "data": 10.0, "samples": 10.0, "checkpoint": 10.0}
SECTIONS = tuple(TIMES_LIMIT)


@dataclass(frozen=True)
class Order:
    """What the hub wants of a worker."""

    save: bool = False
    """Save your stacks."""
    end: bool = False
    """End at once: all stacks are saved, or a newer group has taken over."""
    kill: tuple[int, ...] = ()
    """Process ids on this machine of workers that do not answer."""


Ask = Callable[[Pulse], Order | None]
"""Hands a pulse to the hub and returns what it has answered since the last call, None for nothing. Never waits; raises
where the hub is gone."""


class Watchdog:
    """Watches the thread that calls `enter`. `close` ends it."""

    def __init__(self, folder: Path, *, rank: int, num_workers: int, hang_after_s: float, node: str = "") -> None:
        """`folder`: for the stacks of this run. `hang_after_s`: of the job; 0 never ends the worker."""
        self._folder, self._rank, self._node, self._hang_after_s = folder, rank, node, hang_after_s
        self._pulse_s = max(PULSE_S, num_workers / MOST_PULSES_A_SECOND)
        self._attempt = 0
        self._section, self._since_s = "setup", time.monotonic()
        self._spent = dict.fromkeys(SECTIONS, 0.0)
        self._steps_s: deque[float] = deque(maxlen=STEP_WINDOW)
        self._num_steps = 0
        self._file: Any = None
        self._saved = False
        self._heard_s = time.monotonic()  # of the hub
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="gen-dist-watchdog", daemon=True)

    def start(self, ask: Ask) -> None:
        """Begin to watch; the section is `setup`."""
        self._ask = ask
        self._thread.start()

    def begin(self, attempt: int) -> None:
        """The number of this worker group, once it is known: names the folder of its stacks. Time counts from here."""
        self._attempt = attempt
        self._spent, self._since_s = dict.fromkeys(SECTIONS, 0.0), time.monotonic()

    def enter(self, section: str) -> None:
        """This worker is at something else from now on."""
        now_s = time.monotonic()
        self._spent[self._section] += now_s - self._since_s
        self._section, self._since_s = section, now_s

    @contextlib.contextmanager
    def within(self, section: str) -> Iterator[None]:
        """Within, it is at something else; afterwards at what it was at before."""
        before = self._section
        self.enter(section)
        try:
            yield
        finally:
            self.enter(before)

    def stepped(self, seconds: float) -> None:
        """A step is done; it took this long, waiting for data left out."""
        self._num_steps += 1
        if self._num_steps > FIRST_STEPS:
            self._steps_s.append(seconds)

    def spent(self) -> dict[str, float]:
        """Seconds by section since the start of this worker, the one under way included."""
        section, since_s, spent = self._section, self._since_s, dict(self._spent)
        spent[section] += time.monotonic() - since_s
        return spent

    def limit_s(self, section: str) -> float:
        """How long a section may take."""
        if section == "step" and self._num_steps < FIRST_STEPS:
            return TIMES_LIMIT["samples"] * self._hang_after_s
        steps_s = statistics.median(self._steps_s) if self._steps_s else 0.0
        return TIMES_LIMIT[section] * self._hang_after_s + MEDIAN_STEPS * steps_s

    def close(self) -> None:
        """Stop watching; what is empty goes."""
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join(2.0 * QUICK_PULSE_S)
        faulthandler.cancel_dump_traceback_later()
        if self._file is not None:
            self._file.close()
            if not self._saved:
                self._path().unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    self._path().parent.rmdir()
            self._file = None

    def _path(self) -> Path:
        return self._folder / f"attempt-{self._attempt:06d}" / f"rank{self._rank:05d}.txt"

    def _watch(self) -> None:
        while not self._closed.wait(QUICK_PULSE_S if self._saved else self._pulse_s):
            pulse = self._pulse()
            self._arm(pulse)
            try:
                order = self._ask(pulse)
            except Exception:  # noqa: BLE001  whatever became of the hub, this worker must not hang for it
                order = None
            if order is not None:
                self._heard_s = time.monotonic()
            order = order or self._alone(pulse)
            if order.save and not self._saved:
                self._save(pulse)
            if order.end:
                self._end(order)

    def _pulse(self) -> Pulse:
        section, since_s = self._section, self._since_s
        limit_s = self.limit_s(section) if self._hang_after_s else float("inf")
        return Pulse(
            attempt=self._attempt,
            rank=self._rank,
            section=section,
            for_s=time.monotonic() - since_s,
            limit_s=limit_s,
            node=self._node,
            pid=os.getpid(),
            saved=self._saved,
        )

    def _alone(self, pulse: Pulse) -> Order:
        """What to do without an answer of the hub: where nobody can say that the group hangs, it may be this worker."""
        deaf_s = time.monotonic() - self._heard_s
        alone = pulse.for_s > pulse.limit_s + ALONE_S and deaf_s > ALONE_S
        return Order(save=alone, end=alone)

    def _open(self) -> Any:
        """The file of this worker's stacks; None on a full disk: a worker without a place for them still trains."""
        if self._file is None:
            with contextlib.suppress(OSError):
                self._path().parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path().open("a", encoding="utf-8")
                self._file.write(f"rank {self._rank}, process {os.getpid()} on node {self._node}\n")
                self._file.flush()
        return self._file

    def _arm(self, pulse: Pulse) -> None:
        """Set the timer in C anew. It fires where a thread that holds the GIL keeps this one from coming here again."""
        if self._hang_after_s and self._attempt and self._open() is not None:
            longest_s = min(pulse.limit_s, self.limit_s("step"))
            faulthandler.dump_traceback_later(longest_s + self._pulse_s + BEHIND_S, exit=True, file=self._file)

    def _save(self, pulse: Pulse) -> None:
        self._saved = True
        with contextlib.suppress(OSError):
            if (file := self._open()) is not None:
                file.write(f"\n{pulse.for_s:.1f} s in section {pulse.section} (limit {pulse.limit_s:.1f} s)\n\n")
                file.flush()
                faulthandler.dump_traceback(file=file, all_threads=True)

    def _end(self, order: Order) -> None:
        """At once and without a core file, which may be as large as all memory. Ray sees a dead worker."""
        for pid in order.kill:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        os._exit(HANG_EXIT_CODE)


class Unwatched:
    """In the place of a watchdog where a loop runs without Ray: measures, and watches nothing."""

    def __init__(self) -> None:
        self._watchdog = Watchdog(Path(), rank=0, num_workers=1, hang_after_s=0.0)
        self.enter, self.within = self._watchdog.enter, self._watchdog.within
        self.stepped, self.spent = self._watchdog.stepped, self._watchdog.spent


def sweep(folder: Path) -> None:
    """Remove what workers that were killed left without a stack in it."""
    for path in folder.glob("attempt-*/rank*.txt"):
        with contextlib.suppress(OSError):
            if "most recent call first" not in path.read_text(encoding="utf-8", errors="replace"):
                path.unlink()
                path.parent.rmdir()
