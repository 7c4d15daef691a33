"""Whether a Ray cluster answers and takes our token, found out at once: `ray.init` asks for most of a minute."""

from __future__ import annotations

import logging
import os
import socket

import grpc
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.services import canonicalize_bootstrap_address
from ray._raylet import AuthenticationTokenLoader, GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RpcError

from gen_dist.job.errors import GenDistError

ANSWER_S = 5.0
GREETING_S = 10.0  # long enough for a head that is very busy
LAST_PORT = 65535
AUTO = "auto"
CLIENT = "ray://"
WEB = ("http://", "https://")
TOKEN = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token holds the token"
NO_HEAD = "what answers there is no head of Ray"
_CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_KNOWN_BY = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class ClusterError(GenDistError):
    """A Ray cluster that cannot be reached."""


def unreached(address: str, why: str) -> ClusterError:
    """One line: why the cluster at `cluster.address` is not there for us, and what to do."""
    return ClusterError(
        f"cluster.address={address!r}: {why}; check that `ray status --address {address}` answers here ({TOKEN}),"
        " or leave the address empty for a local Ray"
    )


def check_reachable(address: str) -> None:
    """Raises: ClusterError where nobody answers at `HOST:PORT`, or refuses our token.

    `auto` is the Ray that runs on this machine; what is of another form is Ray's to find.
    """
    if address.startswith(WEB):
        raise ClusterError(
            f"cluster.address={address!r}: the address of a dashboard; write that of the head's Ray, such as HEAD:6379,"
            " or send the job there from here: `gen-dist submit JOB --cluster URL`"
        )
    host, _, port = _place(address).removeprefix(CLIENT).rpartition(":")
    if not host or not port.isdigit():
        return
    if int(port) > LAST_PORT:
        raise unreached(address, f"no port, which end at {LAST_PORT}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise unreached(address, error.strerror or str(error)) from error
    if address.startswith(CLIENT):
        return  # its server is asked by Ray's own client
    if why := _no_token():
        raise unreached(address, why)
    if os.environ.get("RAY_USE_TLS", "0") != "1" and (why := _no_head(f"{host}:{port}")):
        raise unreached(address, why)
    try:
        GcsClient(address=f"{host}:{port}")
    except AuthenticationError:
        why = "it wants another token than the one here, or there is none here"
        raise unreached(address, why) from None
    except RpcError as error:
        raise unreached(address, f"{NO_HEAD} ({' '.join(str(error).split())[:80]})") from error


def _place(address: str) -> str:
    try:
        return address if address != AUTO else canonicalize_bootstrap_address(address) or ""
    except Exception:  # noqa: BLE001  Ray says it again when it is asked for that cluster
        return ""


def _no_token() -> str:
    """Why there is no token here though one is asked for or named; empty where there is one, or none is wanted."""
    logging.getLogger("ray").setLevel(logging.ERROR)  # it says that it found a token
    try:
        is_wanted = maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        if not is_wanted or AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            return ""
    except AuthenticationError as error:
        return f"no token: {str(error).partition('. ')[0]}"
    return "RAY_AUTH_MODE=token, and there is no token here"


def _no_head(place: str) -> str:
    """Why what listens there is no head of Ray; empty where it is one, whatever it says of a call without a token.

    Ray's own client asks for 40 s before it says so.
    """
    with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(_CLUSTER_ID)(b"", timeout=GREETING_S)
        except grpc.RpcError as error:
            if error.code() not in _KNOWN_BY:
                return ""
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"{NO_HEAD}: it says nothing for {GREETING_S:.0f} s"
            return f"{NO_HEAD}: it does not speak Ray's protocol; the port of a head is 6379 where none was named"
    return ""
