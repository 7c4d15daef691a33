"""A job for other machines names no folder of this one, and a resolved job is a job file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gen_dist.job.errors import JobError
from gen_dist.job.load import load_job, resolve

JOB = """
name = "away"
recipe = "ddpm"
[data]
url = "s3://bucket/shards"
[train]
total_images = 1000
[run]
folder = "/mnt/shared/runs"
"""


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(JOB)
    return path


@pytest.mark.parametrize(
    "override",
    [
        "data.url=shards",
        "data.derived=./latents",
        "data.disk_cache=cache",
        "run.folder=runs",
        "run.checkpoints=kept/here",
        "registry.store=models",
        "tracking.uri=sqlite:///mlflow.db",
        "tracking.uri=mlruns",
        'data.mix=[{url = "more"}]',
    ],
)
def test_a_folder_relative_to_this_one_is_refused_with_its_key(job: Path, override: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(job, [override], away=True)
    (line,) = caught.value.lines
    assert override.partition("=")[0] in line
    assert "a folder of this machine, which a cluster does not see; write" in line


def test_the_usual_run_folder_is_relative_and_refused(job: Path) -> None:
    job.write_text(JOB.replace('[run]\nfolder = "/mnt/shared/runs"', ""))
    with pytest.raises(JobError, match=r"job\.toml: run\.folder='runs': a folder of this machine"):
        load_job(job, away=True)


MODEL_FOLDERS = [
    ("latent_diffusion", "model.text_encoder"),
    ("latent_diffusion", "model.autoencoder"),
    ("gigagan", "model.clip"),
    ("gigagan", "model.vision"),
    ("gigagan_upsampler", "model.lpips"),
    ("gigagan_upsampler", "model.text_encoder"),
]


@pytest.mark.parametrize(("recipe", "key"), MODEL_FOLDERS)
def test_a_model_of_this_machine_is_refused_and_one_of_theirs_is_left_to_them(job: Path, recipe: str, key: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(job, [f"recipe={recipe}", f"{key}=models/one"], away=True)
    (line,) = caught.value.lines
    assert line == (
        f"--set {key}=models/one: a folder of this machine, which a cluster does not see; write its absolute path"
        " there, the same on all its machines"
    )
    spec = load_job(job, [f"recipe={recipe}", f"{key}=/mnt/models/one"], away=True)
    assert spec.model[key.removeprefix("model.")] == "/mnt/models/one"
    for other in ("", "s3://bucket/one", "models:/one@champion"):  # no paths: told of where they are read
        load_job(job, [f"recipe={recipe}", f"{key}={other}"], away=True)


@pytest.mark.parametrize("name", ["base-64", "upsampler-256"])
def test_the_models_of_a_flagship_job_are_named_anew_for_a_cluster(name: str) -> None:
    with pytest.raises(JobError) as caught:
        load_job(f"jobs/gigagan/{name}.toml", ["run.folder=/mnt/runs", "data.url=s3://bucket/shards"], away=True)
    assert all(".toml: model." in line and "write its absolute path there" in line for line in caught.value.lines)
    assert len(caught.value.lines) == 3


@pytest.mark.parametrize(
    "override",
    [
        "data.url=/mnt/shared/shards",
        "data.url=embedded://emoji",
        "run.checkpoints=s3://bucket/kept",
        "tracking.uri=https://mlflow.example.org",
        "tracking.uri=sqlite:////mnt/shared/mlflow.db",
        'data.mix=[{url = "s3://bucket/more"}]',
    ],
)
def test_a_place_that_other_machines_may_see_is_left_to_them(job: Path, override: str) -> None:
    assert load_job(job, [override], away=True).name == "away"


def test_shards_of_the_cluster_are_not_looked_for_here(job: Path) -> None:
    with pytest.raises(JobError, match="no such folder"):
        load_job(job, ["data.url=/mnt/shared/shards"])


def test_a_resolved_job_is_a_job_file(job: Path, tmp_path: Path) -> None:
    spec = load_job(job)
    resolved = tmp_path / "job.resolved.json"
    resolved.write_text(json.dumps(resolve(spec)))
    assert load_job(resolved) == spec
    assert load_job(resolved, ["train.total_images=2000"]).train.total_images == 2000
    resolved.write_text('{"name": ')
    with pytest.raises(JobError, match=r"job\.resolved\.json: not JSON: .*; write a job in TOML"):
        load_job(resolved)
    resolved.write_text("[]")
    with pytest.raises(JobError, match="no job; write one in TOML"):
        load_job(resolved)
