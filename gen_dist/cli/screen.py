"""Screen: where a run is shown. The run goes on when nobody can see it any more."""

from __future__ import annotations

import os
from typing import TextIO

from rich.console import Console


def screen(file: TextIO) -> Console:
    """A console on a terminal, pipe or file that may end before the run does: a pager that is left, a full disk."""
    return Console(file=_Lasting(file))  # type: ignore[arg-type]  # rich asks for no more than it has


class _Lasting:
    """A text file whose words go nowhere once one of them could not be written."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.encoding = file.encoding

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except OSError:
            self._lose()
            return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError:
            self._lose()

    def isatty(self) -> bool:
        return self._file.isatty()

    def fileno(self) -> int:
        return self._file.fileno()

    def _lose(self) -> None:
        """What is still held goes with the rest, also at the end of the program."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._file.fileno())
        os.close(nowhere)
