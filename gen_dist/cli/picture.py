"""The PNG that a command's `-o` names."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

from gen_dist.job.errors import GenDistError


class OutputError(GenDistError):
    """A file that cannot be written."""


def check_out(path: Path, *, such_as: str) -> None:
    """That it can be written, told before the work. `such_as`: a name for one in a folder. Raises: OutputError."""
    if path.is_dir():
        raise OutputError(f"-o {path}: a folder; name a file in it, such as {path / such_as}")
    if not path.parent.is_dir():
        raise OutputError(f"-o {path}: there is no folder {path.parent}; make it, or write elsewhere")
    try:
        if path.exists():
            with path.open("ab"):
                pass
        else:
            with TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise _unwritten(path, error) from None


def write_out(path: Path, png: bytes) -> None:
    """Write it. Raises: OutputError, such as for a disk that has become full meanwhile."""
    try:
        path.write_bytes(png)
    except OSError as error:
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> OutputError:
    return OutputError(f"-o {path}: {error.strerror or error}; write elsewhere")
