"""`gen-dist models publish` sends a model where the person says, else where the environment does, else the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gen_dist.cli.app import main
from gen_dist.job.load import resolve
from gen_dist.registry.publish import Published
from gen_dist.registry.secrets import without_secrets
from tests.support.models import write_model
from tests.support.trained import make_job

WHOLE, OTHER = "https://ann:hunter2@mlflow.example.org", "http://other:5000"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose checkpoint names MLflow without its password."""
    home = tmp_path_factory.mktemp("home")
    job = make_job(home, "small", tracking={"uri": WHOLE})
    write_model(home / "runs" / "small" / "checkpoints", without_secrets(resolve(job)), images=64)
    return home / "runs" / "small"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that a model is sent to."""
    seen: list[str] = []

    def publish(*_: Any, tracking_uri: str, **__: Any) -> Published:
        seen.append(tracking_uri)
        return Published("small", "1", "models:/small/1", "models:/small@latest")

    monkeypatch.setattr("gen_dist.registry.publish.publish", publish)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return seen


def test_the_option_comes_first_and_then_the_environment(
    run: Path, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", WHOLE)
    assert main(["models", "publish", str(run)]) == 0
    assert main(["models", "publish", str(run), "--tracking-uri", OTHER]) == 0
    assert sent == [WHOLE, OTHER]


def test_a_password_that_no_checkpoint_keeps_is_asked_for(
    run: Path, sent: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "publish", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tracking.uri=https://***@mlflow.example.org: its password is not kept; set MLFLOW_TRACKING_URI" in line
    assert sent == []


def test_what_the_job_says_is_enough_where_it_is_no_secret(sent: list[str], tmp_path: Path) -> None:
    job = make_job(tmp_path, "open", tracking={"uri": OTHER})
    write_model(tmp_path / "runs" / "open" / "checkpoints", resolve(job), images=64)
    assert main(["models", "publish", str(tmp_path / "runs" / "open")]) == 0
    assert sent == [OTHER]
