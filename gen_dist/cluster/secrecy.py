"""What must not leave this machine: values of secret variables, and addresses that name a user and a password.

Credentials come from the cluster's own environment, a profile there, or its machines' roles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gen_dist.registry.secrets import passwords, without_secrets

_SECRET_NAME = re.compile(r"SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_PLACE_NAME = re.compile(r"_(PATH|FILE|FILES|DIR|URI|URL)$", re.IGNORECASE)  # where a secret is, not what it is
SHORTEST_SECRET_LETTERS = 16  # a shorter one, such as "minioadmin", is found in texts by chance


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return bool(_SECRET_NAME.search(name)) and not _PLACE_NAME.search(name)


def secret_values(environ: Mapping[str, str]) -> dict[str, str]:
    """Variable -> the secret in it, for those long enough to be told from other texts."""
    found = {name: value for name, value in environ.items() if is_secret(name)}
    for name, value in environ.items():
        if longest := max(passwords(value), key=len, default=""):
            found.setdefault(name, longest)
    return {name: value for name, value in found.items() if len(value) >= SHORTEST_SECRET_LETTERS}


def leaks(files: Mapping[str, bytes], environ: Mapping[str, str]) -> list[str]:
    """`file holds the value of VARIABLE`, for each file that holds a secret of this environment."""
    secrets = {name: value.encode() for name, value in secret_values(environ).items()}
    return [
        f"{file} holds the value of {name}"
        for file, content in files.items()
        for name, value in secrets.items()
        if value in content
    ]


def addresses_with_secrets(value: Any, key: str = "") -> Iterator[str]:
    """The dotted keys whose addresses name a user or a password."""
    if isinstance(value, str):
        if without_secrets(value) != value:
            yield key
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from addresses_with_secrets(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from addresses_with_secrets(inner, f"{key}[{position}]")
