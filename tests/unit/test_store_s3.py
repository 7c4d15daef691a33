"""Faults of an S3 server, made by a small server that cuts, refuses and stalls on demand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gen_dist.store import StoreError
from gen_dist.store.s3 import Retries, S3Store

DATA = hashlib.shake_256(b"gen-dist").digest(3_000_000)
QUICK = Retries(num_attempts=3, first_wait_s=0.01, longest_wait_s=0.02)


class FaultyServer(ThreadingHTTPServer):
    """Serves one object. `faults` are used up one a request: "cut", "reset", "status:Code", or "" for none."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list[str] = []
        self.ranges: list[str] = []
        self.etag = '"one"'
        self.num_connections = 0
        self.body = DATA
        self.hides = 0
        """Looks at the object that do not see it yet: another writer was quicker than the next request."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.ranges.append(asked)
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if self.headers.get("If-Match", self.server.etag) != self.server.etag:
            fault = "412:PreconditionFailed"
        first, _, last = asked.removeprefix("bytes=").partition("-")
        body = self.server.body[int(first or 0) : int(last) + 1 if last else None]
        if fault == "reset":
            self.close_connection = True
            return
        if ":" in fault:
            status, code = fault.split(":")
            self._answer(int(status), f"<Error><Code>{code}</Code><Message>as\n told</Message></Error>".encode())
            return
        self._answer(206 if asked else 200, body, num_sent=len(body) // 2 if fault == "cut" else len(body))

    def setup(self) -> None:
        self.server.num_connections += 1
        super().setup()

    def do_PUT(self) -> None:
        """Keeps the object as a server that honours conditions does; "lost" keeps it and does not say so."""
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        wanted = self.headers.get("If-Match")
        holds = wanted == self.server.etag if wanted else not (self.headers.get("If-None-Match") and self.server.body)
        if not holds:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code><Message>no</Message></Error>")
            return
        self.server.body, self.server.etag = sent, f'"{hashlib.sha256(sent).hexdigest()}"'
        if fault == "lost":
            self.close_connection = True
            return
        self._answer(200, b"")

    def do_HEAD(self) -> None:
        if self.server.hides or not self.server.body:
            self.server.hides = max(0, self.server.hides - 1)
            self._answer(404, b"")
        else:
            self._answer(200, self.server.body, num_sent=0)

    def _answer(self, status: int, body: bytes, *, num_sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", self.server.etag)
        if status == 206:
            first = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(self.server.body)}")
        self.end_headers()
        self.wfile.write(body[:num_sent])
        if num_sent is not None and num_sent < len(body):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.fixture
def store(server: FaultyServer) -> S3Store:
    endpoint_url = f"http://127.0.0.1:{server.server_port}"
    return S3Store(
        bucket="b", prefix="p", endpoint_url=endpoint_url, region="us-east-1", addressing="path", retries=QUICK
    )


@pytest.mark.parametrize("faults", [["cut"], ["cut", "cut"], ["reset"], ["503:SlowDown"], ["500:X", "cut", "reset"]])
@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 3_000_000), (1_000, 2_500_000), (2_000_000, None)])
def test_a_read_survives_faults_without_losing_a_byte(
    server: FaultyServer, store: S3Store, faults: list[str], start: int, end: int | None
) -> None:
    server.faults = list(faults)
    assert store.read("x", start, end) == DATA[start:end]


def test_a_read_goes_on_from_the_last_received_byte(server: FaultyServer, store: S3Store) -> None:
    server.faults = ["cut"]
    store.read("x", 0, 3_000_000)
    first, resumed = (int(asked.removeprefix("bytes=").split("-")[0]) for asked in server.ranges)
    assert first == 0
    assert 1_000_000 <= resumed <= 1_500_000  # what came before the cut is kept, up to a piece


def test_reads_that_are_whole_share_a_connection(server: FaultyServer, store: S3Store) -> None:
    for size in (1, 500, 1024, 1025, 5000, 1 << 20, (1 << 20) + 1024, 3_000_000):
        assert store.read("x", 0, size) == DATA[:size]
        assert store.stream("x").read() == DATA
    assert (server.num_connections, store.stats.num_retries) == (1, 0)


def test_a_file_that_is_read_through_faults_is_whole(server: FaultyServer, store: S3Store) -> None:
    server.faults = ["cut", "", "503:SlowDown"]
    with store.open("x") as file:
        assert file.read(10) == DATA[:10]
        file.seek(2_000_000)
        assert file.read(5) == DATA[2_000_000:2_000_005]
        assert file.read() == DATA[2_000_005:]


def test_a_store_that_stays_faulty_ends_in_one_line_with_object_range_and_attempts(
    server: FaultyServer, store: S3Store
) -> None:
    server.faults = ["503:SlowDown"] * 10
    says = r"s3://b/p/x: reading bytes 5-9: SlowDown: as told \(3 attempts\); the store is overloaded"
    with pytest.raises(StoreError, match=says) as caught:
        store.read("x", 5, 10)
    assert caught.value.num_attempts == 3
    assert caught.value.url == "s3://b/p/x"
    assert len(server.ranges) == 3


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        ("403:AccessDenied", "allow s3:ListBucket and s3:GetObject"),
        ("403:InvalidAccessKeyId", "correct AWS_ACCESS_KEY_ID"),
        ("403:SignatureDoesNotMatch", "correct AWS_SECRET_ACCESS_KEY"),
        ("404:NoSuchBucket", "create the bucket, or correct data.url"),
        ("404:NoSuchKey", "restart the run"),
        ("400:Strange", "check data.url and data.s3"),
    ],
)
def test_an_answer_that_will_not_change_is_not_asked_for_again(
    server: FaultyServer, store: S3Store, fault: str, remedy: str
) -> None:
    server.faults = [fault] * 5
    with pytest.raises(StoreError, match=rf"{fault[4:]}: as told \(1 attempt\); .*{remedy}") as caught:
        store.read("x")
    assert "\n" not in str(caught.value)
    assert len(server.ranges) == 1


def test_an_object_that_changed_is_never_mixed_with_what_it_was(server: FaultyServer, store: S3Store) -> None:
    server.faults = ["cut"]
    assert store.read("x", 0, 100, version='"one"') == DATA[:100]
    server.etag = '"two"'
    with pytest.raises(StoreError, match=r"PreconditionFailed: as told \(1 attempt\); the object changed"):
        store.read("x", 0, 100, version='"one"')


@pytest.mark.parametrize("faults", [[], ["lost"], ["lost", "lost"]])
def test_a_conditional_write_whose_answer_was_lost_was_done(
    server: FaultyServer, store: S3Store, faults: list[str]
) -> None:
    server.body, server.faults = b"", list(faults)
    info = store.write("x", b"first", if_version="")
    assert (server.body, info.version) == (b"first", server.etag)
    server.faults = list(faults)
    assert store.write("x", b"second", if_version=info.version).version == server.etag
    assert server.body == b"second"


@pytest.mark.parametrize("faults", [[], ["503:SlowDown"]])
def test_a_writer_that_came_second_is_refused_by_the_server_itself(
    server: FaultyServer, store: S3Store, faults: list[str]
) -> None:
    server.body, server.hides, server.faults = b"of another", 1, list(faults)
    with pytest.raises(StoreError, match=r"x: not written, another process has written it meanwhile; .*read it again"):
        store.write("x", b"ours", if_version="")
    assert server.body == b"of another"


def test_a_server_that_cannot_be_reached_is_named() -> None:
    with FaultyServer() as closed:
        port = closed.server_port
    store = S3Store(bucket="b", endpoint_url=f"http://127.0.0.1:{port}", region="us-east-1", retries=QUICK)
    with pytest.raises(StoreError, match=rf"listing \*: .*\(3 attempts\); check that http://127.0.0.1:{port} can be"):
        store.list("*")


def test_no_credentials_is_one_line_and_takes_no_time(
    server: FaultyServer, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    start_s = time.perf_counter()
    with pytest.raises(StoreError, match=r"Unable to locate credentials \(1 attempt\); set AWS_ACCESS_KEY_ID"):
        store.read("x")
    assert time.perf_counter() - start_s < 5
    assert not server.ranges


def test_waits_grow_are_random_and_bounded() -> None:
    retries = Retries(first_wait_s=0.2, longest_wait_s=10.0)
    for attempt in range(1, 12):
        waits_s = {retries.wait_s(attempt) for _ in range(20)}
        bound_s = min(10.0, 0.2 * 2 ** (attempt - 1))
        assert len(waits_s) > 1
        assert bound_s / 2 <= min(waits_s) <= max(waits_s) <= bound_s
