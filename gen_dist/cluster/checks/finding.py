"""Finding: what one check of the doctor saw, in one line for a person, or as JSON. It never holds a secret."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from gen_dist.registry.secrets import without_secrets

State = Literal["ok", "note", "wrong"]
"""`note`: a run goes on in spite of it, or it could not be looked at. `wrong`: a run would end by it, or lose by it."""

CLUSTER = "cluster"  # the check that all others hang on
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
)
FEWEST_SECRET_LETTERS = 6  # shorter ones would blot out plain words
MOST_NAMES = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line `what is seen; what to do about it`, and the numbers behind it, with their units in their names."""

    check: str
    state: State
    text: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _blotted(" ".join(self.text.split())))

    @property
    def line(self) -> str:
        """`state check text`, in columns."""
        return f"{self.state:<6} {self.check:<14} {self.text}"

    def to_json(self) -> dict[str, Any]:
        """What JSON holds of it; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Finding:
        """Raises: TypeError where it is none."""
        return cls(**facts)


def ok(check: str, text: str, **measured: Any) -> Finding:
    """All is well."""
    return Finding(check=check, state="ok", text=text, measured=measured)


def note(check: str, text: str, **measured: Any) -> Finding:
    """A run goes on in spite of it, or it could not be looked at."""
    return Finding(check=check, state="note", text=text, measured=measured)


def wrong(check: str, text: str, **measured: Any) -> Finding:
    """A run would end by it, or lose by it; `text` says what to do."""
    return Finding(check=check, state="wrong", text=text, measured=measured)


def named(machines: Sequence[str]) -> str:
    """Some machines by name and the others by number; nothing where there is only this one."""
    names = [name for name in machines if name]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def at(machines: Sequence[str]) -> str:
    """`on A, B: ` in front of what is seen there; nothing where there is only this machine."""
    found = named(machines)
    return f"on {found}: " if found else ""


def grouped(check: str, texts: Mapping[str, str]) -> Finding:
    """What is wrong on some machines (text by machine), in one line: the commonest text first, machines by name."""
    machines: dict[str, list[str]] = {}
    for machine, text in texts.items():
        machines.setdefault(text, []).append(machine)
    most = sorted(machines.items(), key=lambda item: -len(item[1]))
    return wrong(check, " | ".join(f"{at(names)}{text}" for text, names in most), machines=dict(texts))


def _blotted(text: str) -> str:
    """Without the user and password of any address, and without the secrets that the environment holds."""
    text = str(without_secrets(text))
    for name in SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= FEWEST_SECRET_LETTERS:
            text = text.replace(value, "***")
    return text
