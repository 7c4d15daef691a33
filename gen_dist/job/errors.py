"""GenDistError, the base of every error a person can mend, and JobError: all that is wrong with a job, a line each."""

from __future__ import annotations

from collections.abc import Sequence


class GenDistError(Exception):
    """An error with a message for the person at the terminal: what was seen, where, what to write instead.

    The command line prints its lines without a traceback and ends with exit code 2. A subclass whose arguments are
    not its message must define `__reduce__`: Ray pickles errors on their way from a worker to the driver.
    """

    @property
    def lines(self) -> list[str]:
        """The message, one problem a line."""
        return str(self).splitlines()


class JobError(GenDistError, ValueError):
    """A job that cannot run: one line a problem, each naming file, key, value and remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)  # args rebuild the error when it is unpickled

    def __str__(self) -> str:
        return "\n".join(self.problems)
