"""The command line as a person starts it: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gen_dist.registry import wal
from tests.support.ray_cluster import workers_below

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("gen-dist")
OUTPUT = "output.txt"
LONGEST_RUN_S = 800.0  # a starved machine takes five times as long as an idle one


def run(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [str(PROGRAM), *words],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=LONGEST_RUN_S,
        check=False,
    )


def report(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What it says with --json, where it ends well."""
    done = run(*words, "--json", cwd=cwd, env=env)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


class Running:
    """A run that is under way, started in a session of its own so that a signal reaches it alone."""

    def __init__(
        self, *words: str, cwd: Path, env: Mapping[str, str] | None = None, program: Sequence[str | Path] = (PROGRAM,)
    ) -> None:
        self._output = cwd / OUTPUT
        with self._output.open("w") as output:  # a pipe that nobody reads would stop it once it is full
            self.process = subprocess.Popen(
                [*map(str, program), *words],
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for_images(self, events: Path, images: int) -> None:
        """Until its event log shows that many images learned from."""
        give_up_s = time.monotonic() + LONGEST_RUN_S
        while time.monotonic() < give_up_s:
            if any(event.get("images", 0) >= images for event in read_events(events)):
                return
            if self.process.poll() is not None:
                raise AssertionError(f"ended early: {self.end()}")
            time.sleep(0.2)
        raise AssertionError(f"no {images} images within {LONGEST_RUN_S} s: {self.end()}")

    def signal(self, number: int) -> None:
        """Send a signal to the driver only."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Exit code and output, once it has ended; a run that does not end is ended."""
        try:
            self.process.wait(LONGEST_RUN_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        return self.process.returncode, self._output.read_text()

    def workers(self) -> list[int]:
        """Process ids of its Ray Train workers."""
        return sorted(workers_below(self.process.pid))


def read_events(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a run's log, `RUN/wal`; none where there is no log yet."""
    return wal.read_events(path)
