"""An HTTP proxy in front of a real server that can be told to be in trouble, from one request to the next."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Trouble = Literal["", "refuse", "error", "slow", "lose", "deny"]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class TroubledProxy:
    """A running proxy. `trouble` may be set at any time: "" passes requests on, `refuse` resets the connection,

    `error` answers 500, `deny` answers 401 as one that wants to know who asks, `slow` answers only after `slow_s` (the
    request is done at once), `lose` does the request and resets the connection in place of an answer.
    """

    def __init__(self, url: str, port: int) -> None:
        target = urlsplit(url)
        self.target = (target.hostname or "", target.port or 80)
        self.uri = f"http://127.0.0.1:{port}"
        self.trouble: Trouble = ""
        self.slow_s = 30.0
        self.num_requests = 0
        self.closing = threading.Event()


@contextmanager
def run_troubled_proxy(url: str) -> Iterator[TroubledProxy]:
    """A proxy of the server at `url`, on a free port of this machine, for as long as the block runs."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.proxy = TroubledProxy(url, server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.proxy
    finally:
        server.proxy.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    proxy: TroubledProxy

    def handle_error(self, *_: object) -> None:
        """A client that went away is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _forward(self) -> None:
        proxy = self.server.proxy
        proxy.num_requests += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        trouble = proxy.trouble
        if trouble == "refuse":
            self._break()
            return
        if trouble == "error":
            self._answer(500, {}, b"out of order")
            return
        if trouble == "deny":
            self._answer(401, {"WWW-Authenticate": 'Basic realm="mlflow"'}, b"You are not authenticated.")
            return
        status, headers, content = self._asked(body)
        if trouble == "lose":
            self._break()
            return
        if trouble == "slow":
            proxy.closing.wait(proxy.slow_s)
        self._answer(status, headers, content)

    do_GET = do_PUT = do_HEAD = do_POST = do_PATCH = do_DELETE = _forward  # noqa: N815

    def _asked(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(*self.server.proxy.target, timeout=300)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP | {"host"}}
        try:
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _break(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
