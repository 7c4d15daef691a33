"""A port that is open and no head of Ray: told within seconds, with what listens there and what to write instead."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest

from gen_dist.cluster import client
from gen_dist.cluster.client import Jobs, UnreachableError
from gen_dist.train import reach
from gen_dist.train.reach import ClusterError, check_reachable

QUICK_S = 5.0  # `ray.init` takes ten times as long, on a machine that has nothing else to do


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """Takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def web() -> Iterator[int]:
    """A web server, such as a dashboard."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextlib.contextmanager
def hangs_up() -> Iterator[int]:
    """Closes each connection at once, as a proxy without anything behind it."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def close_all() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=close_all, daemon=True).start()
        yield server.getsockname()[1]


@contextlib.contextmanager
def another_rpc() -> Iterator[int]:
    """Speaks the protocol, and is something else, as the other ports of Ray are."""
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield port
        server.stop(0).wait()


@pytest.mark.parametrize(
    ("listener", "says"),
    [
        (silent, "it says nothing for 1 s"),
        (web, "the port of a head is 6379"),
        (hangs_up, "the port of a head is 6379"),
        (another_rpc, "the port of a head is 6379"),
    ],
)
def test_an_open_port_that_is_no_head_is_told_within_seconds(
    listener: Callable[[], contextlib.AbstractContextManager[int]], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "GREETING_S", 1.0)
    with listener() as port:
        began_s = time.monotonic()
        with pytest.raises(ClusterError) as caught:
            check_reachable(f"127.0.0.1:{port}")
    assert time.monotonic() - began_s < QUICK_S
    (line,) = caught.value.lines
    for part in (f"cluster.address='127.0.0.1:{port}'", "no head of Ray", says, "leave the address empty"):
        assert part in line


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("127.0.0.1:99999", "65535"),
        ("http://127.0.0.1:8265", "write that of the head's Ray, such as HEAD:6379"),
    ],
)
def test_an_address_where_nobody_can_be_is_told_at_once(address: str, says: str) -> None:
    with pytest.raises(ClusterError, match=says):
        check_reachable(address)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"RAY_AUTH_TOKEN_PATH": "/no/token"}, "no token: RAY_AUTH_TOKEN_PATH is set but file cannot be opened"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/no/token"}, "no token: RAY_AUTH_TOKEN_PATH is set but"),
        ({"RAY_AUTH_MODE": "token", "HOME": "/no/home"}, "RAY_AUTH_MODE=token, and there is no token here"),
    ],
)
def test_a_token_that_is_not_here_is_told_before_anybody_is_asked(env: dict[str, str], says: str) -> None:
    """In a process of its own: Ray reads its environment once."""
    code = "import sys; from gen_dist.train.reach import check_reachable; check_reachable(sys.argv[1])"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with silent() as port:
        done = subprocess.run(
            [sys.executable, "-c", code, f"127.0.0.1:{port}"],
            env={**clean, **env},
            capture_output=True,
            text=True,
            check=False,
        )
    assert f"ClusterError: cluster.address='127.0.0.1:{port}': {says}" in done.stderr
    assert "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token holds the token" in done.stderr


def test_a_dashboard_that_takes_connections_and_says_nothing_is_told_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "HELLO_S", 1.0)
    with silent() as port:
        began_s = time.monotonic()
        with pytest.raises(UnreachableError, match=r"no answer \(timed out\); see that the head runs"):
            Jobs(f"http://127.0.0.1:{port}")
    assert time.monotonic() - began_s < QUICK_S


def test_rays_own_port_is_not_that_of_the_dashboard() -> None:
    with another_rpc() as port, pytest.raises(UnreachableError, match="the usual port of a dashboard is 8265"):
        Jobs(f"http://127.0.0.1:{port}")
