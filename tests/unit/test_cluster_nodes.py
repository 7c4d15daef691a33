"""All machines of a cluster that are alive are counted, however many there are and were."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any

import pytest
import ray
from aiohttp.test_utils import make_mocked_request
from ray.dashboard.state_api_utils import do_filter, options_from_req
from ray.util.state.common import NodeState

from gen_dist.cluster.client import Jobs

NODES = [
    {
        "node_id": f"{number:04}",
        "node_ip": f"10.0.{number >> 8}.{number & 255}",
        "state": "ALIVE" if number % 2 else "DEAD",
        "resources_total": {"CPU": 8.0, "GPU": 1.0},
    }
    for number in range(600)
]


class Head(BaseHTTPRequestHandler):
    """Answers as Ray's own head does, by its own reading of a question."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/version"):
            answer: Any = {"version": "4", "ray_version": ray.__version__, "ray_commit": ""}
        else:
            asked = options_from_req(make_mocked_request("GET", self.path))
            found = do_filter([dict(node) for node in NODES], asked.filters, NodeState, asked.detail)
            answer = {"result": True, "data": {"result": {"result": list(islice(found, asked.limit))}}}
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Head) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_all_that_are_alive_are_told_and_none_that_is_dead(url: str) -> None:
    nodes = Jobs(url).nodes()
    assert len(nodes) == 300
    assert {node.total["GPU"] for node in nodes} == {1.0}
