"""`--set a.b=3`: one key of a job from the command line, for a program or a quick try."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gen_dist.job.problem import Problem


@dataclass(frozen=True)
class Override:
    """`text` is what was typed after --set, `raw` its part behind the first equals sign."""

    text: str
    key: str
    raw: str
    value: Any

    @property
    def origin(self) -> str:
        return f"--set {self.text}"


def parse(text: str) -> Override | str:
    """An override, or the line that says why it is none. The value is TOML; what is not TOML is a bare text."""
    key, equals, raw = (part.strip() for part in text.partition("="))
    if not equals or not re.fullmatch(r"[\w-]+(\.[\w-]+)*", key):
        return f"--set {text}: not of the form key=value; write such as --set train.total_images=1000"
    try:
        document = tomllib.loads(f"value = {raw}\n")
    except tomllib.TOMLDecodeError:
        document = {"value": raw}
    return Override(text, key, raw, document["value"] if len(document) == 1 else raw)


def place(table: dict[str, Any], key: str, value: Any) -> Problem | None:
    """Write `value` at the dotted `key` of a job's tables, in place; a problem where the path leads through a value."""
    *path, name = key.split(".")
    inner: Any = table
    for depth, part in enumerate(path, start=1):
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            above = ".".join(path[:depth])
            return Problem(key, f"'{above}' holds a value, not a table", f"write --set {above}=...", value)
    inner[name] = value
    return None


def origin_of(problem: Problem, overrides: Sequence[Override]) -> Override | None:
    """The last override that wrote the key, a table around it, a key in it, or else a key that the verdict rests on."""
    for key in (problem.key, *problem.concerns):
        for override in reversed(overrides):
            inside = isinstance(problem.value, dict) and override.key.startswith(f"{key}.")
            if inside or re.match(re.escape(override.key) + r"(\.|\[|$)", key):
                return override
    return None
