"""without_secrets: texts, and whatever JSON holds, with the user and password of every address blotted out."""

from __future__ import annotations

import re
from typing import Any

# up to the last @ before the path: a password may hold one
_USER_AND_PASSWORD = re.compile(r"(?<=://)[^\s/?#]*@")


def without_secrets(value: Any) -> Any:
    """The same value with `***@` where an address names its user."""
    if isinstance(value, str):
        return _USER_AND_PASSWORD.sub("***@", value)
    if isinstance(value, dict):
        return {key: without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return value
