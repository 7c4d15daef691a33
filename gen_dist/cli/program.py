"""Command lines to be typed again: programs of this environment, as the person's shell finds them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def typed(program: str, arguments: Sequence[str]) -> str:
    """`gen-dist ...` where the shell finds this environment's program by name, else with its path."""
    ours = Path(sys.executable).with_name(program)
    found = shutil.which(program)
    name = program if found and Path(found).resolve() == ours.resolve() else os.path.relpath(ours)
    if name.startswith(f"..{os.sep}"):
        name = str(ours)
    return shlex.join([name, *arguments])
