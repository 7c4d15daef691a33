"""Problem: one thing that is wrong with a job, and the single line that tells it with its remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NO_VALUE = object()
LONGEST_VALUE_CHARACTERS = 60


@dataclass(frozen=True)
class Problem:
    """`key` is dotted; the verdict rests on `concerns` too; `meant` is the key that a typo was likely meant for."""

    key: str
    what: str
    remedy: str
    value: Any = NO_VALUE
    concerns: tuple[str, ...] = ()
    meant: str = ""

    def line(self, origin: str) -> str:
        """`origin: key=value: what; remedy`, where origin is the job file."""
        return f"{origin}: {self.warning}"

    @property
    def warning(self) -> str:
        """`key=value: what; remedy`."""
        value = "" if self.value is NO_VALUE else f"={shown(self.value)}"
        return f"{self.key}{value}: {self.verdict}"

    @property
    def verdict(self) -> str:
        return f"{self.what}; {self.remedy}"


def shown(value: Any) -> str:
    """A value as TOML would have it, on one line, cut where it is long."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key} = {shown(entry)}" for key, entry in value.items()) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(map(shown, value)) + "]"
    else:
        text = repr(value) if isinstance(value, str | int | float) else str(value)
    return text if len(text) <= LONGEST_VALUE_CHARACTERS else text[: LONGEST_VALUE_CHARACTERS - 3] + "..."


def guess(typed: str, known: Iterable[str]) -> str | None:
    """The known word that was most likely meant."""
    close = difflib.get_close_matches(typed.lower().replace("-", "_"), list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def choose(typed: str, known: Iterable[str]) -> str:
    """The remedy for a word that is not among the known ones: the likely one, then all of them."""
    names = list(known)
    meant = guess(typed, names)
    listed = f"known: {', '.join(names) or 'none'}"
    return f"did you mean '{meant}'? {listed}" if meant else listed
