"""Runs that go on by themselves after a hang, a notice, a killed driver, a crash loop, bad numbers. Real processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from tests.support import cli
from tests.support.mlflow_server import runs_of
from tests.support.ray_cluster import drain
from tests.support.run_faults import events, learned, settings, wait_for, with_faults

DCGAN = str(cli.ROOT / "jobs" / "smoke" / "dcgan.toml")
RUN = Path("runs") / "smoke-dcgan"
NO_TRACKER = {"tracking__uri": "http://127.0.0.1:1"}  # nothing here is about it
LONG = {"train__total_images": 1_000_000, **NO_TRACKER}

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("nothing_left")]


def starts(log: Path) -> list[int]:
    return [event["images"] for event in events(log, "start")]


def ours(driver: int) -> list[psutil.Process]:
    """All processes below the driver, and those of its session that were handed to others."""
    return psutil.Process(driver).children(recursive=True)


def test_a_group_that_hangs_saves_the_stacks_of_all_its_ranks_and_starts_anew(tmp_path: Path) -> None:
    """T7: a busy loop, a thread that holds the GIL, a mismatched collective, a stopped process; each in one group."""
    env = with_faults(
        tmp_path / "faults",
        {"kind": "loop", "images": 400, "rank": 1},
        {"kind": "hold_gil", "images": 1040, "rank": 0},
        {"kind": "mismatch", "images": 1680, "rank": 1},
    )
    keys = {"run__hang_after_s": 8, "run__max_failures": 9, **LONG}
    running = cli.Running("train", DCGAN, *settings(**keys), cwd=tmp_path, env=env)
    log = tmp_path / RUN / "wal"
    wait_for(lambda: len(starts(log)) == 4, "start after the third hang", running=running)
    wait_for(lambda: learned(log, group=4, images=320), "steps of the fourth group", running=running)
    stopped_s = time.time()
    os.kill(running.workers()[1], signal.SIGSTOP)
    wait_for(lambda: len(starts(log)) == 5, "start after the fourth hang", running=running)
    running.signal(signal.SIGTERM)
    code, output = running.end()
    assert code == 128 + signal.SIGTERM, output

    hangs = events(log, "hang")
    assert [hang["attempt"] for hang in hangs] == [1, 2, 3, 4]
    assert hangs[3]["silent"] in ([0], [1])
    assert hangs[3]["at_s"] - stopped_s < 8 + 3 * 5 + 15, "the limit, three steps and some of a busy machine"
    stacks = {
        (attempt, rank): path.read_text()
        for attempt in (1, 2, 3, 4)
        for rank in (0, 1)
        if (path := tmp_path / RUN / "hang" / f"attempt-{attempt:06d}" / f"rank{rank:05d}.txt").exists()
    }
    saved = {place for place, text in stacks.items() if "most recent call first" in text}
    silent = hangs[3]["silent"][0]
    assert saved >= {(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1), (4, 1 - silent)}
    assert "_act" in stacks[1, 1], "where rank 1 loops"
    assert "_act" in stacks[2, 0], "where rank 0 holds the GIL"
    assert "monitored_barrier" in stacks[3, 1], "where rank 1 calls what nobody answers"
    assert "all_reduce" in stacks[1, 0] or "backward" in stacks[1, 0], "where the other waits"
    deaths = events(log, "death")
    assert [death["attempt"] for death in deaths] == [1, 2, 3, 4]
    assert all("hung" in death["why"] for death in deaths)
    assert output.count("\nhang ") == output.count("\nrestart ") == 4, output


def gcs_address(driver: int) -> str:
    """Of the local Ray below a driver."""
    for process in ours(driver):
        for word in process.cmdline():
            if word.startswith("--gcs-address="):
                return word.partition("=")[2]
    raise AssertionError("no Ray below the driver")


def test_a_notice_has_a_checkpoint_written_and_a_killed_driver_takes_all_with_it_and_resumes(tmp_path: Path) -> None:
    """T20, T8: notice of a machine that goes, then kill -9 of the driver; the same command goes on."""
    shared = set(os.listdir("/dev/shm"))
    # no checkpoint comes by itself within the time of the test
    every = {"train__checkpoint_every_images": 800_000, "train__sample_every_images": 0}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a" * 64, "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
    running = cli.Running("train", DCGAN, *settings(**LONG, **every), cwd=tmp_path, env=token)
    log = tmp_path / RUN / "wal"
    running.wait_for_images(log, 160)
    noticed_s = time.time()
    drain(gcs_address(running.process.pid), window_s=120.0, env=token)
    wait_for(lambda: events(log, "checkpoint"), "checkpoint", running=running)
    (notice,) = events(log, "notice")
    assert "is taken away in" in notice["why"]
    (kept,) = events(log, "checkpoint")
    assert kept["at_s"] - noticed_s < 30, "a checkpoint inside the shortest window that clouds give"
    running.wait_for_images(log, kept["images"] + 160)
    assert not events(log, "death", "end"), "it goes on meanwhile"

    below = ours(running.process.pid)
    assert len(below) > 5
    running.signal(signal.SIGKILL)
    running.end()
    _, alive = psutil.wait_procs(below, timeout=240)  # agents of Ray look for their raylet now and then
    assert not [process for process in alive if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    left = {name for name in set(os.listdir("/dev/shm")) - shared if "deepspeed" in name or "plasma" in name}
    assert not left

    end = {"train__total_images": kept["images"] + 320, **NO_TRACKER}
    done = cli.report("train", DCGAN, *settings(**{**LONG, **every, **end}), cwd=tmp_path)
    assert done["finished"]
    assert starts(log) == [0, kept["images"]]
    seconds: dict[str, float] = done["goodput_s"]
    assert seconds["lost_work"] > 0
    assert seconds["idle"] > 0
    assert seconds["training"] > 0
    launches = [event["at_s"] for event in events(log, "launch")]
    (end_s,) = [event["at_s"] for event in events(log, "end")]
    whole = end_s - launches[0]
    assert sum(seconds.values()) == pytest.approx(whole, rel=0.05), "every second has a cause"


@pytest.mark.parametrize("actor", ["TrainController", "Hub"])
def test_a_killed_process_of_rays_ends_the_run_with_a_line_and_the_same_command_goes_on(
    tmp_path: Path, actor: str
) -> None:
    """T8: kill -9 of the controller of Ray Train, and of the process that hears the workers."""
    running = cli.Running("train", DCGAN, *settings(**LONG), cwd=tmp_path)
    log = tmp_path / RUN / "wal"
    wait_for(lambda: events(log, "checkpoint"), "checkpoint", running=running)
    below = ours(running.process.pid)
    (process,) = [process for process in below if f"ray::{actor}" in "".join(process.cmdline())]
    process.kill()
    code, output = running.end()
    assert code == 2, output
    assert "run the same command again to go on from the newest checkpoint" in output
    assert "Traceback" not in output
    psutil.wait_procs(below, timeout=60)
    kept = max(event["images"] for event in events(log, "checkpoint"))
    end = {"train__total_images": kept + 320}
    assert cli.report("train", DCGAN, *settings(**{**LONG, **end}), cwd=tmp_path)["finished"]
    assert starts(log) == [0, kept]


def test_a_run_that_starts_over_has_another_curve_and_keeps_the_first(tmp_path: Path) -> None:
    first = cli.report("train", DCGAN, cwd=tmp_path)
    again = cli.report("train", DCGAN, "--fresh", cwd=tmp_path)
    assert first["finished"]
    assert again["finished"]
    assert starts(tmp_path / RUN / "wal") == [0, 0]
    assert again["checkpoint"] != first["checkpoint"]
    runs = runs_of(MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db"), "smoke-dcgan")
    assert runs.keys() >= {"history-1", "history-2"}
    assert again["model"] != first["model"], "another version"


def test_a_crash_loop_goes_back_a_checkpoint_and_then_stops_and_says_why(tmp_path: Path) -> None:
    env = with_faults(tmp_path / "faults", {"kind": "kill", "images": 560, "rank": 1, "times": 9})
    done = cli.run("train", DCGAN, *settings(run__max_failures=9, **LONG), cwd=tmp_path, env=env)
    assert done.returncode == 2, done.stdout + done.stderr
    log = tmp_path / RUN / "wal"
    assert starts(log) == [0, 480, 320]
    assert [death["images"] for death in events(log, "death")] == pytest.approx([560] * 3, abs=32)
    assert [event["skip_checkpoints"] for event in events(log, "crash_loop")] == [1]
    assert "crash loop" in done.stdout
    (line,) = done.stderr.splitlines()
    for part in ("3 worker groups in a row died here", "320, 480", "rank 1: its process was killed", "mend the cause"):
        assert part in line, line


def test_a_bad_stretch_of_data_is_rolled_back_over_and_the_audit_says_so(tmp_path: Path) -> None:
    """And an exception of one worker is told with its traceback, and a clock that jumps back moves nothing (T16)."""
    env = with_faults(
        tmp_path / "faults",
        {"kind": "clock", "images": 200, "rank": 0},
        {"kind": "nan", "images": 560, "rank": 1},
        {"kind": "raise", "images": 800, "rank": 0},
    )
    keys = {"train__nonfinite__policy": "rollback", "train__nonfinite__rollback_checkpoints": 2, **LONG}
    done = cli.report("train", DCGAN, *settings(**{**keys, "train__total_images": 1280}), cwd=tmp_path, env=env)
    assert done["finished"]
    log = tmp_path / RUN / "wal"
    assert starts(log) == [0, 320, 800]
    (rollback,) = events(log, "rollback")
    assert (rollback["images"], rollback["after_position"], rollback["checkpoints"]) == (560, 576, 2)
    assert "at rank 1" in rollback["why"]
    assert [event["passed_over_images"] for event in events(log, "start")] == [0, 576 - 320, 576 - 320]

    audit: dict[str, Any] = cli.report("data", "audit", str(RUN), cwd=tmp_path)
    assert audit["holds"]
    assert audit["images"] == 1280
    assert audit["num_skipped"] == 576 - 320

    (death,) = events(log, "death")
    assert death["rank"] == 0
    assert "IndexError: a fault of the test" in death["why"]
    assert "_act" in Path(death["log"]).read_text()
    attempts = events(log, "attempt")
    assert [event["attempt"] for event in attempts] == [1, 2, 3]
    assert done["goodput_s"]["idle"] < 60.0, "the hour that the clock lost is nobody's"
