"""When a worker group hangs, from the pulses of its workers; and the watchdog that sends them, in a real process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gen_dist.train.pulses import Pulse, hang
from gen_dist.train.watchdog import HANG_EXIT_CODE, Order, Watchdog, sweep

SILENT_S = 60.0


def pulse(rank: int, section: str = "step", for_s: float = 90.0, limit_s: float = 61.0) -> Pulse:
    return Pulse(3, rank, section, for_s, limit_s, node="node", pid=rank)


def heard(*pulses: Pulse, ages_s: tuple[float, ...] = ()) -> dict[int, tuple[Pulse, float]]:
    ages_s = ages_s or (0.5,) * len(pulses)
    return {one.rank: (one, 1000.0 - age_s) for one, age_s in zip(pulses, ages_s, strict=True)}


def test_a_group_hangs_when_all_of_it_is_over_its_limits() -> None:
    found = hang(heard(pulse(0), pulse(1, for_s=92.0)), now_s=1000.0, silent_after_s=SILENT_S)
    assert found is not None
    assert (found.rank, found.section, found.silent) == (1, "step", ())


@pytest.mark.parametrize("section", ["data", "checkpoint", "samples", "setup"])
def test_a_worker_that_waits_for_another_ones_data_or_checkpoint_does_not_hang(section: str) -> None:
    waiting, busy = pulse(0, for_s=300.0), pulse(1, section, for_s=300.0, limit_s=600.0)
    assert hang(heard(waiting, busy), now_s=1000.0, silent_after_s=SILENT_S) is None
    stuck = pulse(1, section, for_s=601.0, limit_s=600.0)
    found = hang(heard(waiting, stuck), now_s=1000.0, silent_after_s=SILENT_S)
    assert found is not None
    assert (found.rank, found.section) == (1, section), "the one that is elsewhere holds up the other"


def test_a_silent_worker_is_the_one_that_hangs() -> None:
    seen = heard(pulse(0), pulse(1, for_s=1.0), ages_s=(0.5, 61.0))
    found = hang(seen, now_s=1000.0, silent_after_s=SILENT_S)
    assert found is not None
    assert (found.rank, found.silent) == (1, (1,))
    assert "rank 1" in found.line()
    assert hang(seen, now_s=990.0, silent_after_s=SILENT_S) is None, "not silent for long enough"
    saving = heard(pulse(0, "checkpoint", for_s=5.0, limit_s=600.0), pulse(1), ages_s=(0.5, 61.0))
    assert hang(saving, now_s=1000.0, silent_after_s=SILENT_S) is not None, "whatever the other one is at"
    all_silent = heard(pulse(0), pulse(1), ages_s=(61.0, 61.0))
    assert hang(all_silent, now_s=1000.0, silent_after_s=SILENT_S) is None, "nobody is there to act on it"


def test_limits_follow_the_median_step_and_the_first_steps_have_time(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, rank=0, num_workers=1, hang_after_s=10.0)
    assert watchdog.limit_s("step") == 100.0
    for seconds in (30.0, 20.0, 10.0, 2.0, 2.0, 9.0):  # the first three are not typical
        watchdog.stepped(seconds)
    assert watchdog.limit_s("step") == 16.0
    assert watchdog.limit_s("data") == watchdog.limit_s("checkpoint") == 106.0
    assert watchdog.limit_s("setup") == 206.0


def test_times_of_sections_add_up_to_the_time_that_passed(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, rank=0, num_workers=1, hang_after_s=10.0)
    before_s = time.monotonic()
    watchdog.begin(1)
    start_s = time.monotonic()
    for section in ("data", "step", "data", "checkpoint", "step"):
        watchdog.enter(section)
        time.sleep(0.02)
    end_s = time.monotonic()
    spent = watchdog.spent()
    assert end_s - start_s <= sum(spent.values()) <= time.monotonic() - before_s
    assert spent["data"] >= 0.04 <= spent["step"]
    assert spent["samples"] == 0.0


WORKER = """
import ctypes, sys, time
from pathlib import Path
from gen_dist.train import watchdog
from gen_dist.train.pulses import Pulse, hang
from gen_dist.train.watchdog import Order, Watchdog

watchdog.PULSE_S, watchdog.BEHIND_S, watchdog.ALONE_S = 0.1, 1.0, 1.0

def hub(pulse):
    return Order(save=True, end=pulse.saved) if pulse.expired else Order()

def no_hub(pulse):
    raise ConnectionError("gone")

watched = Watchdog(Path(sys.argv[1]), rank=1, num_workers=2, hang_after_s=0.5, node="here")
watched.start({{"hub": hub, "no_hub": no_hub}}[sys.argv[2]])
watched.begin(7)
for _ in range(4):
    watched.enter("step")
    time.sleep(0.01)
    watched.stepped(0.01)
watched.enter("setup")  # has time
time.sleep(0.5)  # so that the thread has been here
watched.enter("step")

def train():
    {stuck}

train()
"""
STUCK = {
    "loop": "while True: pass",
    "waits": "time.sleep(3600)",
    # the GIL stays held: no other thread of the process runs again
    "holds_gil": "ctypes.PyDLL(None).sleep(3600)",
}


@pytest.mark.parametrize(("stuck", "hub"), [("loop", "hub"), ("waits", "no_hub"), ("holds_gil", "hub")])
def test_a_stuck_worker_saves_its_stacks_and_ends(tmp_path: Path, stuck: str, hub: str) -> None:
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER.format(stuck=STUCK[stuck])))
    folder = tmp_path / "hang"
    done = subprocess.run([sys.executable, str(script), str(folder), hub], timeout=300, check=False)
    assert done.returncode == (1 if stuck == "holds_gil" else HANG_EXIT_CODE)
    stacks = (folder / "attempt-000007" / "rank00001.txt").read_text()
    assert "in train" in stacks
    assert "rank 1" in stacks
    sweep(folder)
    assert (folder / "attempt-000007" / "rank00001.txt").exists(), "what holds stacks stays"


def test_a_worker_that_ends_well_leaves_no_file_and_what_killed_ones_left_is_swept(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, rank=0, num_workers=1, hang_after_s=100.0)
    watchdog._pulse_s = 0.05
    watchdog.start(lambda pulse: Order())
    watchdog.begin(1)
    path = tmp_path / "attempt-000001" / "rank00000.txt"
    deadline_s = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    left = tmp_path / "attempt-000002" / "rank00000.txt"
    left.parent.mkdir()
    left.write_text(path.read_text())
    watchdog.close()
    sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []
