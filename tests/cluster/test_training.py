"""A job through every real part: Ray Train with two workers over gloo, DeepSpeed, the embedded shards, MLflow."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from PIL import Image

from gen_dist.cli.app import main
from gen_dist.registry.find import find_model
from gen_dist.sample.trained import Trained
from tests.support import cli
from tests.support.gateway import run_gateway
from tests.support.mlflow_tables import put_tables
from tests.support.text_models import write_text_model

SMOKE = cli.ROOT / "jobs" / "smoke"
DIFFUSION = str(SMOKE / "latent_diffusion.toml")
DCGAN = str(SMOKE / "dcgan.toml")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    put_tables(folder / "runs" / "mlflow.db")
    return folder


@pytest.fixture(scope="module")
def finished(home: Path) -> dict[str, Any]:
    """The smoke job of latent diffusion, run to its end on two workers."""
    return cli.report("train", DIFFUSION, cwd=home)


@pytest.fixture
def client(home: Path) -> mlflow.MlflowClient:
    """By address, as set_tracking_uri would reach the processes that later tests start."""
    return mlflow.MlflowClient(f"sqlite:///{home}/runs/mlflow.db")


def test_a_job_ends_with_a_grid_a_checkpoint_and_a_registered_model(home: Path, finished: dict[str, Any]) -> None:
    assert finished["finished"]
    assert finished["images"] == 320
    assert finished["model_alias"] == "models:/smoke-latent-diffusion@latest"
    assert (home / finished["checkpoint"] / "MANIFEST.json").exists()
    with Image.open(home / finished["sample_grid"]) as grid:
        assert np.asarray(grid).std() > 10, "a grid of one colour"


def test_two_workers_took_part(home: Path, finished: dict[str, Any]) -> None:
    events = cli.read_events(home / finished["run_folder"] / "wal")
    assert [event["workers"] for event in events if event["kind"] == "start"] == [2]


def test_mlflow_holds_parameters_curves_grids_and_lineage(
    home: Path, finished: dict[str, Any], client: mlflow.MlflowClient
) -> None:
    run = client.get_run(finished["mlflow_run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["train.global_batch_images"] == "16"
    assert run.data.params["model.latent_channels"] == "4"
    wanted = {
        "loss/autoencoder/pixels",
        "loss/denoiser/velocity",
        "rate/denoiser",
        "speed/images_per_s",
        "speed/data_wait_share",
        "memory/process_peak_bytes",
        "heldout/psnr_db",
    }
    assert wanted <= run.data.metrics.keys()
    names = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"job.resolved.json", "versions.json", "data.json", "images"} <= names
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "loss/denoiser/velocity")]
    assert steps == sorted(set(steps)), "a step twice in the curve"
    assert run.data.tags["attempts"] == "1"


def test_each_checkpoint_with_scores_holds_them_and_is_a_model_of_the_record(
    home: Path, finished: dict[str, Any], client: mlflow.MlflowClient
) -> None:
    run = client.get_run(finished["mlflow_run"])
    models = {model.tags["images"]: model for model in client.search_logged_models([run.info.experiment_id])}
    assert models.keys() == {"160", "320"}
    manifest = (home / finished["checkpoint"] / "MANIFEST.json").read_bytes()
    assert models["320"].tags["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    measured = {point.key: point.value for point in models["320"].metrics}
    scores = json.loads(manifest)["facts"]["scores"]
    assert scores
    assert scores == {name: value for name, value in measured.items() if name.startswith("heldout/")}
    assert {point.dataset_digest for point in models["320"].metrics if point.key in scores} != {""}


def test_no_pickle_lies_in_a_run(home: Path, finished: dict[str, Any]) -> None:
    found = [path for ending in ("pkl", "pt", "pth", "bin") for path in (home / "runs").rglob(f"*.{ending}")]
    assert not [path for path in found if "ray" not in path.relative_to(home).parts], found


def test_a_finished_job_is_not_trained_again(home: Path, finished: dict[str, Any]) -> None:
    before = cli.read_events(home / finished["run_folder"] / "wal")
    again = cli.report("train", DIFFUSION, cwd=home)
    assert again["finished"]
    assert cli.read_events(home / finished["run_folder"] / "wal") == before
    assert again["mlflow_run"] == finished["mlflow_run"]


def test_the_same_seed_draws_the_same_image_from_run_checkpoint_and_registry(
    home: Path, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.report("sample", finished["run_folder"], "red heart", "--seed", "7", "-o", "0.png", cwd=home)
    monkeypatch.chdir(home)
    for number, model in enumerate([finished["checkpoint"], finished["model_alias"]], start=1):
        assert main(["sample", model, "red heart", "--seed", "7", "-o", f"{number}.png"]) == 0
    images = [(home / f"{number}.png").read_bytes() for number in range(3)]
    assert images[0] == images[1] == images[2]
    assert main(["sample", finished["run_folder"], "red heart", "--seed", "8", "-o", "other.png"]) == 0
    assert (home / "other.png").read_bytes() != images[0]


def test_a_score_is_measured_against_chance(
    home: Path, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert main(["evaluate", finished["run_folder"], "-n", "16", "--json"]) == 0
    score = json.loads(capsys.readouterr().out)
    assert score["captions"] == 16
    assert 0.0 <= score["category_share"] <= 1.0
    assert 0.05 < score["category_chance"] < 0.3


ON_LATENTS = ("name=on-latents", "model.autoencoder=runs/smoke-latent-diffusion", "model.latents=derived")
SHORT = ("cluster.num_workers=1", "train.total_images=192", "train.sample_every_images=0")


@pytest.mark.long  # three runs
def test_a_run_on_latents_with_checkpoints_in_a_bucket_ends_with_a_model_that_travels_alone(
    home: Path, finished: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run, on the latents of the first and with a pretrained text encoder. Folders are named as seen here."""
    first = tmp_path / "runs" / "smoke-latent-diffusion"
    shutil.copytree(home / finished["run_folder"], first, ignore=shutil.ignore_patterns("ray"))
    put_tables(tmp_path / "runs" / "mlflow.db")
    write_text_model(tmp_path / "clip", "clip")
    with run_gateway(tmp_path / "gateway") as gateway:
        latents = f"s3://{gateway.bucket}/latents"
        where = ("--endpoint-url", gateway.endpoint_url, "--addressing", "path")
        verb = ("data", "derive", "runs/smoke-latent-diffusion", "embedded://emoji", latents)
        assert cli.report(*verb, *where, cwd=tmp_path, env=gateway.environment)["num_made"] > 0
        s3 = (f"data.s3.endpoint_url={gateway.endpoint_url}", "data.s3.addressing=path", f"data.derived={latents}")
        kept = f"s3://{gateway.bucket}/runs"
        s3 += (f"run.checkpoints={kept}", f"run.s3.endpoint_url={gateway.endpoint_url}", "run.s3.addressing=path")
        settings = words(*SHORT, *ON_LATENTS, *s3, "model.text_encoder=clip")
        done = cli.report("train", DIFFUSION, *settings, cwd=tmp_path, env=gateway.environment)
        for name, value in gateway.environment.items():
            monkeypatch.setenv(name, value)
        found = find_model(str(tmp_path / "runs" / "on-latents"))
        assert isinstance(found, Trained)
        assert found.place == done["checkpoint"]
        assert found.place.startswith(f"{kept}/on-latents/images-000000000192.a")
        found.checkpoint.verify()
        weights = found.weights()
    assert done["finished"]
    assert not (tmp_path / "runs" / "on-latents" / "checkpoints").exists()
    assert found.checkpoint.manifest.facts["group_steps"] == {"denoiser": 12}
    assert not [name for name in weights if name.startswith(("encoder.", "decoder.", "text."))]
    first.rename(tmp_path / "elsewhere")
    (tmp_path / "clip").rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    assert main(["sample", done["model_alias"], "red apple", "-o", "apple.png"]) == 0
    assert (tmp_path / "apple.png").stat().st_size > 100


def words(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_another_setting_under_the_same_name_is_refused_in_one_line_and_the_run_stays_as_it_is(
    home: Path, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    resolved = home / finished["run_folder"] / "job.resolved.json"
    before = resolved.read_text()
    assert main(["train", DIFFUSION, *words("model.kl_weight=0.5", "train.total_images=640")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.kl_weight=0.0001, the job now says 0.5" in line
    assert resolved.read_text() == before


def test_a_killed_worker_is_replaced_and_sigterm_saves_and_no_tracker_costs_a_warning(tmp_path: Path) -> None:
    before = set(os.listdir("/dev/shm"))
    keys = ("train.total_images=100000", "tracking.uri=http://127.0.0.1:1")
    running = cli.Running("train", DCGAN, *words(*keys), cwd=tmp_path)
    events = tmp_path / "runs" / "smoke-dcgan" / "wal"
    running.wait_for_images(events, 480)
    os.kill(running.workers()[0], signal.SIGKILL)
    while len(starts := [event["images"] for event in cli.read_events(events) if event["kind"] == "start"]) < 2:
        assert running.process.poll() is None, running.end()
        time.sleep(0.2)
    assert starts[1] >= 320, "more than one interval of 160 images lost"
    running.wait_for_images(events, starts[1] + 320)
    running.signal(signal.SIGTERM)
    os.killpg(running.process.pid, signal.SIGTERM)  # as `timeout` and schedulers do: the process, then its group
    code, output = running.end()
    assert code == 128 + signal.SIGTERM, output
    assert "resume" in output
    assert "warning" in output
    said = [event["kind"] for event in cli.read_events(events)]
    assert [kind for kind in said if kind in ("checkpoint", "end", "status")][-3:] == ["checkpoint", "end", "status"]
    assert "`gen-dist track " in output
    deadline_s = time.monotonic() + 100
    while left := {name for name in set(os.listdir("/dev/shm")) - before if "deepspeed" in name}:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.2)


def test_an_error_of_the_data_is_told_once_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    job = tmp_path / "job.toml"
    job.write_text(Path(DCGAN).read_text().replace('label = "json:label"', 'label = "json:kind"'))
    assert main(["train", str(job)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "kind" in line
