"""Whether a Ray cluster answers and takes our token, found out at once: `ray.init` asks for most of a minute."""

from __future__ import annotations

import logging
import socket

from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RpcError

from gen_dist.job.errors import GenDistError

ANSWER_S = 5.0
CLIENT = "ray://"
TOKEN = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token holds the token"


class ClusterError(GenDistError):
    """A Ray cluster that cannot be reached."""


def unreached(address: str, why: str) -> ClusterError:
    """One line: why the cluster at `cluster.address` is not there for us, and what to do."""
    return ClusterError(
        f"cluster.address={address!r}: {why}; check that `ray status --address {address}` answers here ({TOKEN}),"
        " or leave the address empty for a local Ray"
    )


def check_reachable(address: str) -> None:
    """Raises: ClusterError where nobody answers at `HOST:PORT`, or refuses our token. Other forms are Ray's to find."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise unreached(address, error.strerror or str(error)) from error
    if address.startswith(CLIENT):
        return  # its server is asked by Ray's own client
    logging.getLogger("ray").setLevel(logging.ERROR)  # it says that it found a token
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        GcsClient(address=f"{host}:{port}")
    except AuthenticationError:
        why = "it wants another token than the one here, or there is none here"
        raise unreached(address, why) from None
    except RpcError as error:
        raise unreached(
            address, f"what answers there is no head of Ray ({' '.join(str(error).split())[:80]})"
        ) from error
