"""A Slurm of one machine, for scripts of infra/slurm: its commands, its environment and its signals.

Processes, network and /tmp/ray are a namespace's own: Ray ends with `ray stop`, which ends every Ray that it sees.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.cli import ROOT

NAMESPACE = ["unshare", "--pid", "--net", "--mount", "--fork", "--mount-proc", "--kill-child"]
INSIDE = "ip link set lo up && mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && exec"
SRUN = """#!/usr/bin/env bash
# One task, in a process group of its own; where the file `signal` names a signal, all of the group get it.
while [[ $1 == --* ]]; do shift; done
export SLURM_PROCID=0
setsid "$@" &
task=$!
while kill -0 "$task" 2>/dev/null; do
    if [[ -s $FAKE_SLURM/signal ]]; then
        kill -s "$(<"$FAKE_SLURM/signal")" -- "-$task"
        rm "$FAKE_SLURM/signal"
    fi
    sleep 0.2
done
wait "$task"
"""
SCONTROL = """#!/usr/bin/env bash
if [[ $1 == show ]]; then echo 127.0.0.1; else echo "$@" >>"$FAKE_SLURM/scontrol.log"; fi
"""


def missing() -> str:
    """Why no namespace can be made here; empty where it can."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "needs unshare and ip (util-linux, iproute2)"
    made = subprocess.run([*NAMESPACE, "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "namespaces are not allowed here"


class Slurm:
    """`sbatch` for jobs whose log is `log`, one at a time; `signal` is a file: see above."""

    def __init__(self, folder: Path, *, submitted_from: Path) -> None:
        """`submitted_from`: the root of a repository, where infra/ is."""
        self.signal, self.scontrol_log = folder / "signal", folder / "scontrol.log"
        self.log = folder / "job.log"
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        self._env = {
            **os.environ,
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FAKE_SLURM": str(folder),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "here",
            "SLURM_NNODES": "1",
            "SLURM_SUBMIT_DIR": str(submitted_from),
        }
        self._env.pop("RAY_ADDRESS", None)

    def sbatch(self, *words: str) -> subprocess.Popen[bytes]:
        """The script as Slurm runs it on the first node, with its arguments."""
        call = shlex.join([str(ROOT / "infra" / "slurm" / "train.sbatch"), *words])
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*NAMESPACE, "bash", "-c", f"{INSIDE} {call}"], env=self._env, stdout=log, stderr=log
            )
