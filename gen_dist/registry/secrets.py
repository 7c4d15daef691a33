"""without_secrets: texts, and whatever JSON holds, with the user and password of every address blotted out.

Addresses are read as those do who use them: a database's password may hold anything but an @, and may stand in the
query (SQLAlchemy). In http://host:5000/path@2 nothing is secret, for 5000 is a port.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_USER = r"[^\s/?#:@\[]*"
_PASSWORD = r"([^\s@]*)@(?:[^\s/?#@]*@)*"  # up to the last @ before the path: it may hold one itself
_PORT = r"""\d{1,5}[/?#"',;)}\]>]"""
_USER_AND_PASSWORD = re.compile(
    rf"(?<=://)(?<!http://)(?<!https://){_USER}:{_PASSWORD}|(?<=://){_USER}:(?!{_PORT}){_PASSWORD}|(?<=://)[^\s/?#]*@",
    re.IGNORECASE,
)
_SECRET = "password|passwd|pwd|token|secret|signature|credential|api_?key|access_?key"
_IN_QUERY = re.compile(rf'([?&](?:[^=&\s"]*(?:{_SECRET})[^=&\s"]*|sig)=)([^&\s"]+)', re.IGNORECASE)


def without_secrets(value: Any) -> Any:
    """The same value with `***@` where an address names its user, and `***` for what is secret in its query."""
    if isinstance(value, str):
        return _IN_QUERY.sub(r"\1***", _USER_AND_PASSWORD.sub("***@", value))
    if isinstance(value, dict):
        return {key: without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return value


def passwords(text: str) -> Iterator[str]:
    """Those in the addresses of a text, as they are written there."""
    for found in _USER_AND_PASSWORD.finditer(text):
        yield from filter(None, found.groups())
    for found in _IN_QUERY.finditer(text):
        yield found[2]
