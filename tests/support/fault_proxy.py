"""An HTTP proxy in front of a real S3 server that makes the faults of a real network, the same ones for the same seed.

It forwards requests as they are, with their Host header, so that signatures stay valid. Which fault a request meets
depends on the seed, the request and how often it was made, not on which thread came first.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from botocore.exceptions import ClientError

from tests.support.gateway import Gateway

PIECE_BYTES = 1 << 16
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
REFUSED = b"<?xml version='1.0'?><Error><Code>PreconditionFailed</Code><Message>It does not hold.</Message></Error>"


@dataclass(frozen=True)
class Plan:
    """Shares of requests that meet each fault; together at most 1. Cut, reset and slow are for answers to a GET."""

    cut: float = 0.0
    """The connection is closed in the middle of the body."""
    reset: float = 0.0
    """The connection is reset in the middle of the body."""
    refuse: float = 0.0
    """503 SlowDown, of any request."""
    slow: float = 0.0
    """The body takes `slow_s` longer."""
    lose: float = 0.0
    """The request is done, but its answer is lost; of any request but a GET."""
    slow_s: float = 0.2
    seed: int = 0

    def fault(self, method: str, path: str, ranged: str, nth: int) -> tuple[str, float]:
        """The fault ("" for none) of the nth request of its kind, and at which share of the body, in [0, 1)."""
        digest = sha256(repr((self.seed, method, path, ranged, nth)).encode()).digest()
        draw, where = (int.from_bytes(digest[at : at + 8], "big") / 2**64 for at in (0, 8))
        kinds = ("refuse", "cut", "reset", "slow") if method == "GET" else ("refuse", "lose")
        for kind in kinds:
            draw -= getattr(self, kind)
            if draw < 0:
                return kind, where
        return "", where


@dataclass
class FaultProxy:
    """A running proxy. `plan` and `before_request` may be set at any time."""

    gateway: Gateway
    """The same server, reached through the proxy."""
    plan: Plan
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    """`requests`, methods, and faults by name, since the start."""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path with query, Range) of each request, in the order of arrival."""
    conditional: bool = False
    """Looks at If-None-Match and If-Match of a PUT, as AWS does and the gateway does not."""
    ahead_s: float = 0.0
    """How far the server's clock is ahead of ours, as its answers say."""
    before_request: Callable[[str, str], None] | None = None
    """Called with method and path before a request is forwarded: the place to change an object under a reader."""

    @property
    def endpoint_url(self) -> str:
        return self.gateway.endpoint_url


@contextmanager
def run_fault_proxy(gateway: Gateway, **faults: Any) -> Iterator[FaultProxy]:
    """A proxy of a gateway, on a free port of this machine, for as long as the block runs; `faults` make its Plan."""
    server = _Server(gateway, Plan(**faults))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client keeps its connections open
    request_queue_size = 128

    def __init__(self, gateway: Gateway, plan: Plan) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        target = urlsplit(gateway.endpoint_url)
        self.target = (target.hostname or "", target.port or 80)
        self.proxy = FaultProxy(replace(gateway, endpoint_url=f"http://127.0.0.1:{self.server_port}"), plan)
        self.one_conditional_put = threading.Lock()
        self.client = gateway.client()
        self._lock = threading.Lock()
        self._num_seen: collections.Counter[tuple[str, str, str]] = collections.Counter()

    def meet(self, method: str, path: str, ranged: str) -> tuple[str, float]:
        """Notes a request, and what is to happen to it."""
        proxy = self.proxy
        with self._lock:
            kind = (method, path, ranged)
            fault, where = proxy.plan.fault(*kind, self._num_seen[kind])
            self._num_seen[kind] += 1
            proxy.requests.append(kind)
            proxy.counts.update(["requests", method, *([fault] if fault else [])])
        return fault, where

    def handle_error(self, *_: object) -> None:
        """A client that went away is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _upstream: http.client.HTTPConnection | None = None

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = re.sub(r"[?&]X-Amz-[^&]*", "", self.path)  # a signature: another one each time, and of no matter here
        fault, where = self.server.meet(self.command, path, self.headers.get("Range", ""))
        if fault == "refuse":
            self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
            return
        if self.server.proxy.before_request is not None:
            self.server.proxy.before_request(self.command, self.path)
        conditions = {name: self.headers[name] for name in ("If-None-Match", "If-Match") if name in self.headers}
        if self.server.proxy.conditional and self.command == "PUT" and conditions:
            with self.server.one_conditional_put:
                if not self._holds(conditions):
                    self._answer(412, {"Content-Type": "application/xml"}, REFUSED)
                    return
                answer = self._asked(body)
        else:
            answer = self._asked(body)
        if fault == "lose":
            answer.read()
            self._break(reset=True)
            return
        self._relay(answer, fault, where)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _forward  # noqa: N815

    def _holds(self, conditions: dict[str, str]) -> bool:
        """Whether the object is as the conditions of a PUT say: none, or one with this ETag."""
        bucket, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        try:
            etag = self.server.client.head_object(Bucket=bucket, Key=key)["ETag"]
        except ClientError:
            return "If-None-Match" in conditions
        return conditions.get("If-Match") == etag

    def _asked(self, body: bytes) -> http.client.HTTPResponse:
        """The server's answer to this very request."""
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(*self.server.target)
        self._upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                self._upstream.putheader(name, value)
        self._upstream.endheaders(body or None)
        return self._upstream.getresponse()

    def _relay(self, answer: http.client.HTTPResponse, fault: str, where: float) -> None:
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
        size_bytes = int(headers.get("Content-Length", -1))
        if self.command == "HEAD" or answer.status in (204, 304) or size_bytes < 0:
            self._answer(answer.status, headers, answer.read())
            return
        self._head(answer.status, headers)
        num_left = int(size_bytes * where) if fault in ("cut", "reset") else size_bytes
        num_pieces = -(-size_bytes // PIECE_BYTES)
        while num_left and (piece := answer.read(min(num_left, PIECE_BYTES))):
            if fault == "slow":
                time.sleep(self.server.proxy.plan.slow_s / num_pieces)
            self.wfile.write(piece)
            num_left -= len(piece)
        if fault in ("cut", "reset"):
            self._break(reset=fault == "reset")
        else:
            answer.read()  # an empty body too, or the connection is not ready for the next request

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        if self.command != "HEAD" and status not in (204, 304):
            headers["Content-Length"] = str(len(body))
        self._head(status, headers)
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            is_skewed = name == "Date" and self.server.proxy.ahead_s
            there = formatdate(time.time() + self.server.proxy.ahead_s, usegmt=True)
            self.send_header(name, there if is_skewed else value)
        self.end_headers()

    def _break(self, *, reset: bool) -> None:
        """Ends both connections; the server's because an answer on it was not read to its end."""
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.wfile.close()
            self.connection.close()
        self.close_connection = True
        if self._upstream is not None:
            self._upstream.close()
            self._upstream = None

    def finish(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass
