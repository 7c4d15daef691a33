"""act: who does something to a model now, for its audit."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from gen_dist.registry.aliases import Act
from gen_dist.registry.secrets import without_secrets


def act(why: str = "", *, gates: Sequence[Mapping[str, Any]] = (), forced: bool = False) -> Act:
    """Signed with the user and the machine, and the time in UTC."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Act(by=f"{_user()}@{socket.gethostname()}", at=at, why=without_secrets(why), gates=gates, forced=forced)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name
        return "somebody"
