"""Stores for the tests of faults: a folder, and a real S3 server behind a proxy that makes faults."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from gen_dist.store import Store
from gen_dist.store.local import LocalStore
from gen_dist.store.s3 import Retries, S3Store
from tests.support.fault_proxy import FaultProxy, run_fault_proxy
from tests.support.gateway import Gateway, run_gateway

QUICK = Retries(num_attempts=6, first_wait_s=0.01, longest_wait_s=0.05)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A server that ignores the conditions of a write."""
    with run_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def proxy(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """In front of that server; it looks at conditions, as AWS does, unless a test turns that off."""
    with run_fault_proxy(gateway) as running:
        for name, value in {**gateway.environment, "AWS_ENDPOINT_URL": running.endpoint_url}.items():
            monkeypatch.setenv(name, value)
        running.conditional = True
        yield running


@pytest.fixture
def bucket(gateway: Gateway, proxy: FaultProxy, tmp_path: Path) -> S3Store:
    """An empty prefix behind the proxy."""
    return S3Store(
        bucket=gateway.bucket,
        prefix=tmp_path.name,
        endpoint_url=proxy.endpoint_url,
        region=gateway.region,
        addressing="path",
        retries=QUICK,
    )


@pytest.fixture(params=["folder", "s3"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Store]:
    """Empty stores of each kind, by a name."""
    if request.param == "folder":
        return lambda name: LocalStore(tmp_path / name)
    gateway: Gateway = request.getfixturevalue("gateway")
    proxy: FaultProxy = request.getfixturevalue("proxy")
    return lambda name: S3Store(
        bucket=gateway.bucket,
        prefix=f"{tmp_path.name}/{name}",
        endpoint_url=proxy.endpoint_url,
        region=gateway.region,
        addressing="path",
        retries=QUICK,
    )


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """A run that a test gives up is ended."""
    yield
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
