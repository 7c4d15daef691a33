"""Places and names that a run would trip over at its end are told by `check`, and by `train` before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_model_name

from gen_dist.cli.app import main
from gen_dist.job.errors import JobError
from gen_dist.job.load import load_job
from tests.support.cli import ROOT

JOB = str(ROOT / "jobs" / "smoke" / "latent_diffusion.toml")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(*overrides: str, **options: bool) -> str:
    """The one line."""
    with pytest.raises(JobError) as caught:
        load_job(JOB, overrides, **options)
    (line,) = caught.value.lines
    return line


@pytest.mark.parametrize("key", ["model.text_encoder", "model.autoencoder"])
def test_a_folder_of_a_network_must_be_there_when_the_run_starts(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job may be written before its networks are fetched: `check` notes it."""
    what = "no such folder on this machine; put the network there, or name the folder that it is in"
    assert main(["check", JOB, "--set", f"{key}=clip"]) == 0
    assert what in capsys.readouterr().out.splitlines()[-1]
    assert main(["train", JOB, "--set", f"{key}=clip"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"--set {key}=clip: {what}"]
    assert not (tmp_path / "runs").exists()
    (tmp_path / "clip").mkdir()
    assert main(["check", JOB, "--set", f"{key}=clip"]) == 0
    assert "no such folder" not in capsys.readouterr().out


def test_a_folder_of_a_network_may_be_on_the_machines_of_a_cluster_alone() -> None:
    missing = "model.text_encoder=/mnt/clip"
    assert "no such folder on this machine" in refused(missing, looks_at_models=True)
    away = ["cluster.address=ray://head:10001", missing]
    assert load_job(JOB, away, looks_at_models=True).model["text_encoder"] == "/mnt/clip"
    assert load_job(JOB, [missing]).model["text_encoder"] == "/mnt/clip"  # `plan`, which needs its sizes alone


@pytest.mark.parametrize(
    ("name", "write"),
    [("team/heart", "team-heart"), ("a:b", "a-b"), ("heart@home", "heart-home"), (".", "my-model"), ("..", "my-model")],
)
def test_a_model_has_a_name_that_mlflow_takes(name: str, write: str) -> None:
    line = refused(f"tracking.registered_model={name}")
    assert line.startswith(
        f"--set tracking.registered_model={name}: MLflow takes no / and no :, and an @ stands before"
    )
    assert line.endswith(f"; write '{write}'")
    if "@" not in name:
        with pytest.raises(MlflowException):
            _validate_model_name(name)


@pytest.mark.parametrize("name", ["Team heart", "team.heart", "ünïcode", "heart-3_b"])
def test_other_names_of_models_are_taken(name: str) -> None:
    assert load_job(JOB, [f"tracking.registered_model={name}"]).tracking.registered_model == name
    _validate_model_name(name)


@pytest.mark.parametrize("folder", ["", " "])
def test_a_run_has_a_folder(folder: str) -> None:
    assert refused(f"run.folder={folder}").endswith("empty; write such as 'runs', or '.' for the current folder")


def test_a_run_that_ends_before_what_draws_learns_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    quickstart = str(ROOT / "jobs" / "quickstart.toml")
    said = "train.total_images=4000: the run ends before what draws begins to learn, after 8000 images"
    assert main(["check", quickstart, "--set", "train.total_images=4000"]) == 0
    assert said in capsys.readouterr().out
    assert main(["check", quickstart]) == 0
    assert "begins to learn" not in capsys.readouterr().out
