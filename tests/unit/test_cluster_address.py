"""Which cluster a command means: what was typed, the environment, and what was submitted from here, in this order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gen_dist.cluster.address import MOST_JOBS, address, remember, submitted_to
from gen_dist.cluster.errors import JobsError


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("GENDIST_CLUSTER", "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "gen-dist" / "clusters.json"


def test_what_is_typed_comes_before_the_environment_and_that_before_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobsError, match="which cluster"):
        address("")
    remember("a-1", "http://first:8265")
    remember("b-1", "http://second:8265")
    assert address("", job_id="a-1") == "http://first:8265"
    assert address("", job_id="c-1") == address("") == "http://second:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://rays:8265")
    assert address("", job_id="a-1") == "http://rays:8265"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://api.example.org/")
    assert address("") == "https://api.example.org"
    monkeypatch.setenv("GENDIST_CLUSTER", "http://ours:8265")
    assert address("", job_id="a-1") == "http://ours:8265"
    assert address("head:8265") == "http://head:8265"
    assert submitted_to("a-1") == "http://first:8265"
    assert submitted_to("c-1") == ""


@pytest.mark.parametrize("text", ["ray://head:10001", "http://", "auto://x", "head:8265x", "head:99999", "he ad:8265"])
def test_what_is_no_dashboard_is_refused(text: str) -> None:
    with pytest.raises(JobsError, match=r"--cluster .*: not the address of a dashboard; write such as"):
        address(text)


@pytest.mark.parametrize("page", ["http://head:8265/", "http://head:8265/#/jobs/there-1", " head:8265/?a=b "])
def test_the_address_of_a_page_leads_to_its_dashboard(page: str) -> None:
    assert address(page) == "http://head:8265"
    assert address("https://proxy/rays/one/#/jobs") == "https://proxy/rays/one"


def test_a_password_in_an_address_is_neither_used_nor_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENDIST_CLUSTER", "http://ann:canary0password@head:8265")
    with pytest.raises(JobsError, match="GENDIST_CLUSTER: an address with a user or a password") as caught:
        address("")
    assert "canary" not in str(caught.value)


def test_memory_is_bounded_and_a_broken_one_is_empty(state: Path) -> None:
    for number in range(MOST_JOBS + 5):
        remember(f"a-{number}", "http://head:8265")
    kept = json.loads(state.read_text())["jobs"]
    assert len(kept) == MOST_JOBS
    assert f"a-{MOST_JOBS + 4}" in kept
    state.write_text("[1")
    assert submitted_to("a-7") == ""
    remember("b-1", "http://head:8265")
    assert submitted_to("b-1") == "http://head:8265"
    state.unlink()
    state.parent.rmdir()
    state.parent.write_text("no folder")
    remember("b-2", "http://head:8265")  # forgotten, without a word
    assert submitted_to("b-2") == ""
