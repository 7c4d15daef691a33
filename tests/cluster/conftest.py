"""One cluster of hosts for all tests that want it: it takes half a minute to come up."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from tests.support.site import Site, open_site


@pytest.fixture(scope="session")
def _shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as running:
        if running.why_one_host:
            warnings.warn(
                f"the nodes of the cluster share one host: {running.why_one_host}", RuntimeWarning, stacklevel=1
            )
        yield running


@pytest.fixture
def site(_shared_site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A Ray head, two nodes and a storage host, whose bucket this process may read; runs given up are ended."""
    for name, value in _shared_site.gateway.environment.items():
        monkeypatch.setenv(name, value)
    yield _shared_site
    _shared_site.end_runs()
