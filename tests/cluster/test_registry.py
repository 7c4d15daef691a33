"""The record with a real MLflow: what a person finds there, a model that draws elsewhere, a server that is away."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.models import Model as MlflowModel
from PIL import Image

from gen_dist.job import arithmetic
from gen_dist.job.load import resolve
from gen_dist.job.spec import JobSpec
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.export import export
from gen_dist.registry.find import find_model
from gen_dist.registry.publish import Published, publish
from gen_dist.registry.tracker import Tracker
from gen_dist.sample.grid import png
from gen_dist.sample.model import Model
from gen_dist.sample.trained import Trained
from gen_dist.train.report import Reporter
from tests.support.mlflow_server import curve_of, run_mlflow, runs_of
from tests.support.mlflow_tables import put_tables
from tests.support.models import write_model

SECRET = "hunter2"
FACTS = {"data_digest": "d" * 64, "versions": {"torch": "2.13"}, "num_samples": 1870}
PROMPTS = ["red heart", "a cat"]
SMALL = {
    "image_px": 64,
    "autoencoder_channels": [8, 16],
    "denoiser_channels": [32, 32],
    "text_width": 16,
    "text_buckets": 64,
    "text_layers": 0,
    "sample_steps": 2,
}


def make_job(home: Path, name: str, **changes: Any) -> JobSpec:
    raw: dict[str, Any] = {
        "name": name,
        "recipe": "latent_diffusion",
        "model": SMALL,
        "data": {"url": "embedded://emoji", "s3": {"endpoint_url": f"https://ann:{SECRET}@store.example.org"}},
        "train": {"total_images": 640, "prompts": PROMPTS},
        "run": {"folder": str(home / "runs")},
    }
    return JobSpec.model_validate({**raw, **changes})


def write_checkpoint(job: JobSpec, images: int) -> Trained:
    """A model that was never trained, for nothing here looks at its images."""
    folder = Path(arithmetic.run_folder(job)) / "checkpoints"
    return Trained(write_model(folder, resolve(job), images=images, seed=images))


def metrics(images: int, value: float, at_s: float = 1_000.0) -> dict[str, Any]:
    names = ("loss/denoiser/velocity", "rate/denoiser", "speed/images_per_s", "speed/data_wait_share")
    return {"kind": "metrics", "at_s": at_s, "images": images, "step": 1, "metrics": dict.fromkeys(names, value)}


def samples(job: JobSpec, images: int) -> dict[str, Any]:
    path = Path(arithmetic.run_folder(job)) / "samples" / f"images-{images:012d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.full((64, 96, 3), images % 255, dtype=np.uint8)))
    return {"kind": "samples", "at_s": 1_000.0, "images": images, "path": str(path)}


def say(its: Tracker, job: JobSpec, events: list[dict[str, Any]], *, images: int = 0) -> None:
    """What the driver and a leading worker say, from `images` on; a checkpoint at the end covers all of it."""
    its.begin()
    log = Reporter(Path(arithmetic.run_folder(job)) / "wal", its.handle)
    log("start", images=images, workers=1)
    for event in events:
        log(**event)
    if reached := [event["images"] for event in events if "images" in event]:
        log("checkpoint", images=reached[-1], path=f"c/{reached[-1]}")
    log.close()


def tracked(job: JobSpec, events: list[dict[str, Any]], *, status: Any = "FINISHED", images: int = 0) -> Tracker:
    its = Tracker(job, run_folder=Path(arithmetic.run_folder(job)), facts=FACTS)
    its.start()
    say(its, job, events, images=images)
    assert its.wait(300), its.trouble
    assert its.finish(status, 60), its.trouble
    assert its.trouble is None
    return its


def run_id_of(its: Tracker) -> str:
    assert its.run_id is not None
    return its.run_id


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(home: Path) -> MlflowClient:
    uri = f"sqlite:///{put_tables(home / 'runs' / 'mlflow.db')}"
    return MlflowClient(uri, registry_uri=uri)


@dataclass(frozen=True)
class Twice:
    """A job whose model was published twice."""

    job: JobSpec
    uri: str
    checkpoints: list[Trained]
    published: list[Published]
    run_id: str


@pytest.fixture(scope="module")
def twice(home: Path) -> Twice:
    job = make_job(home, "small")
    uri = arithmetic.tracking_uri(job)
    run_id = run_id_of(tracked(job, []))
    checkpoints = [write_checkpoint(job, images) for images in (64, 128)]
    published = [publish(job, path, run_id=run_id, tracking_uri=uri, sample_prompts=PROMPTS) for path in checkpoints]
    return Twice(job, uri, checkpoints, published, run_id)


def test_a_run_can_be_read_in_mlflow(home: Path, client: MlflowClient) -> None:
    job = make_job(home, "readable")
    its = tracked(job, [metrics(64, 0.5), samples(job, 64), metrics(128, 0.25)])
    run = client.get_run(run_id_of(its))
    assert (run.info.run_name, run.info.status) == ("readable", "FINISHED")
    assert run.data.params["train.total_images"] == "640"
    assert run.data.params["model.denoiser_channels"] == "[32, 32]"
    assert run.data.params["train.clip_norm"] == "1.0"  # a default
    curve = client.get_metric_history(run.info.run_id, "loss/denoiser/velocity")
    assert [(point.step, point.value, point.timestamp) for point in curve] == [(64, 0.5, 10**6), (128, 0.25, 10**6)]
    assert {"rate/denoiser", "speed/images_per_s", "speed/data_wait_share"} <= run.data.metrics.keys()
    assert run.data.tags["data_digest"] == "d" * 64
    assert run.data.tags["checkpoint"] == "c/128"
    assert run.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    assert json.loads((folder / "versions.json").read_text()) == {"torch": "2.13"}
    assert json.loads((folder / "data.json").read_text())["num_samples"] == 1870
    assert json.loads((folder / "job.resolved.json").read_text())["train"]["clip_norm"] == 1.0
    grids = sorted(folder.glob("images/samples+step+64+*.png"))
    assert [Image.open(grid).size for grid in grids] == [(96, 64)]
    assert run.data.tags["mlflow.loggedImages"] == "True"  # what makes MLflow show them


def test_the_record_lies_beside_the_runs(home: Path, client: MlflowClient) -> None:
    its = tracked(make_job(home, "beside"), [])
    run = client.get_run(run_id_of(its))
    assert run.info.artifact_uri.startswith((home / "runs" / "mlartifacts").as_uri())


def test_a_resumed_job_goes_on_in_its_run_and_repeats_no_point(home: Path, client: MlflowClient) -> None:
    job = make_job(home, "resumed")
    first = tracked(job, [metrics(64, 0.5), metrics(128, 0.4), samples(job, 128)], status="KILLED")
    assert client.get_run(run_id_of(first)).info.status == "KILLED"
    longer = make_job(home, "resumed", train={"total_images": 1280, "prompts": PROMPTS})
    its = Tracker(longer, run_folder=Path(arithmetic.run_folder(longer)), facts=FACTS)
    its.start()
    again = [metrics(128, 0.4, at_s=2_000.0), samples(job, 128), metrics(192, 0.3, at_s=2_001.0), samples(job, 192)]
    say(its, longer, again, images=64)
    assert its.wait(300)
    assert client.get_run(run_id_of(its)).info.status == "RUNNING"
    assert its.finish("FINISHED", 60)
    assert its.run_id == first.run_id
    run = client.get_run(run_id_of(its))
    assert run.info.status == "FINISHED"
    curve = client.get_metric_history(run.info.run_id, "loss/denoiser/velocity")
    assert [point.step for point in curve] == [64, 128, 192]
    shown = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "images")]
    assert len([path for path in shown if path.endswith(".png")]) == 2
    assert run.data.params["train.total_images"] == "640"
    assert run.data.tags["attempt.2.train.total_images"] == "1280"
    assert "attempt.1.train.total_images" not in run.data.tags


def test_each_attempt_is_a_run_below_that_of_its_job(home: Path, client: MlflowClient) -> None:
    job = make_job(home, "attempts")
    for images in (0, 64):
        its = tracked(job, [metrics(images + 64, 0.5, at_s=1_000.0 + images)], images=images)
    runs = runs_of(client, "attempts")
    assert set(runs) == {"history-1", "attempt-000001", "attempt-000002"}
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs.values()} == {None, its.run_id}
    steps = {name: [step for step, _, _ in curve_of(client, run, "rate/denoiser")] for name, run in runs.items()}
    assert steps == {"history-1": [64, 128], "attempt-000001": [64], "attempt-000002": [128]}


def test_a_run_deleted_in_mlflow_is_made_again_with_all_its_points(home: Path, client: MlflowClient) -> None:
    job = make_job(home, "deleted")
    first = tracked(job, [metrics(64, 0.5)])
    client.delete_run(run_id_of(first))
    second = tracked(job, [metrics(128, 0.5)], images=64)
    assert second.run_id != first.run_id
    steps = [point.step for point in client.get_metric_history(run_id_of(second), "rate/denoiser")]
    assert steps == [64, 128]


def test_infinity_is_not_drawn_as_a_large_number(home: Path, client: MlflowClient) -> None:
    its = tracked(make_job(home, "broken"), [metrics(64, 0.5), metrics(128, float("inf")), metrics(192, float("nan"))])
    run = client.get_run(run_id_of(its))
    assert [point.step for point in client.get_metric_history(run.info.run_id, "rate/denoiser")] == [64]
    assert run.data.tags["not_finite.rate/denoiser"] == "nan after 192 images"
    counted = client.get_metric_history(run.info.run_id, "not_finite/values")
    assert [(point.step, point.value) for point in counted] == [(128, 4.0), (192, 4.0)]


def test_a_server_that_is_away_is_one_line_for_a_person(home: Path) -> None:
    """What it does to a run is for tests/faults/test_tracking.py."""
    uri = f"http://ann:{SECRET}@127.0.0.1:1"
    job = make_job(home, "alone", tracking={"uri": uri})
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1") as refused:
        publish(job, write_checkpoint(job, 64), run_id=None, tracking_uri=uri, sample_prompts=[])
    assert SECRET not in str(refused.value)
    with pytest.raises(RegistryError, match="check MLFLOW_TRACKING_URI") as refused:
        find_model("models:/small@latest", tracking_uri=uri)
    assert SECRET not in str(refused.value)


PREDICT = """
import sys, mlflow, pandas as pd
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
table = pd.DataFrame({"prompt": ["red heart", "a cat"]}, index=[7, 8])
first, again = (model.predict(table, params={"seed": 3}) for _ in range(2))
other = model.predict(table)
column = model.predict(table["prompt"], params={"seed": 3})
assert list(first.columns) == ["png"] and list(first.index) == [7, 8], first
assert first.equals(again) and first.equals(column) and not first.equals(other)
assert model.unwrap_python_model().predict(None, ["red heart", "a cat"], {"seed": 3})["png"].equals(
    first["png"].reset_index(drop=True)
)
assert len(model.predict(table[:0])) == 0
strange = ("ray", "deepspeed", "gen_dist.train", "gen_dist.registry", "gen_dist.data")
assert not [name for name in strange if name in sys.modules]
for number, image in enumerate(first["png"]):
    open(f"{number}.png", "wb").write(image)
"""


def test_the_registered_model_draws_where_training_code_never_ran(twice: Twice, tmp_path: Path) -> None:
    call = [sys.executable, "-c", PREDICT, twice.uri, twice.published[1].alias_uri]
    answer = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    drawn = [np.asarray(Image.open(tmp_path / f"{number}.png")) for number in range(2)]
    assert np.array_equal(drawn, Model.load(twice.checkpoints[1]).draw(PROMPTS, seed=3))
    assert drawn[0].shape == (64, 64, 3)
    assert "pickle" not in answer.stderr


def test_the_second_model_is_version_2_and_the_latest(twice: Twice, client: MlflowClient) -> None:
    assert [(p.version, p.uri, p.alias_uri) for p in twice.published] == [
        ("1", "models:/small/1", "models:/small@latest"),
        ("2", "models:/small/2", "models:/small@latest"),
    ]
    assert str(client.get_model_version_by_alias("small", "latest").version) == "2"
    version = client.get_model_version("small", "2")
    assert (version.run_id, version.tags["images"]) == (twice.run_id, "128")
    run = client.get_run(twice.run_id)
    assert sorted(output.step for output in run.outputs.model_outputs) == [64, 128]


def test_the_model_says_what_it_takes_and_holds_no_pickle(twice: Twice) -> None:
    folder = Path(find_model("models:/small/1", tracking_uri=twice.uri).place).parents[1]
    info = MlflowModel.load(str(folder))
    assert info.signature.inputs.input_names() == ["prompt"]
    assert info.signature.outputs.input_names() == ["png"]
    assert [(param.name, param.default) for param in info.signature.params] == [("seed", 0)]
    assert json.loads((folder / "input_example.json").read_text())["data"] == [["red heart"], ["a cat"]]
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth", ".bin", ".tar"))]


def test_a_model_is_found_by_every_name_it_has(twice: Twice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = twice.checkpoints[1].place
    run = Path(newest).parents[1]
    assert find_model(str(run)).place == find_model(str(run / "checkpoints")).place == newest
    assert find_model(twice.checkpoints[0].place).place == twice.checkpoints[0].place
    exported = export(twice.checkpoints[0], tmp_path / "exported")
    assert find_model(str(exported)).place == str(exported)
    by_version = find_model("models:/small/1", tracking_uri=twice.uri)
    assert by_version.facts.images == 64
    assert find_model("models:/small@latest", tracking_uri=twice.uri).facts.images == 128
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(run.parents[1])
    assert (
        Path(find_model("models:/small/1").place).resolve() == Path(by_version.place).resolve()
    )  # runs/mlflow.db of the current folder
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match="set MLFLOW_TRACKING_URI"):
        find_model("models:/small/1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", twice.uri)
    assert find_model("models:/small/1").place == by_version.place


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("models:/smal@latest", "did you mean 'small'"),
        ("models:/zebra@latest", "there are .*small"),
        ("models:/small/9", "its versions are 1, 2; write models:/small@latest"),
        ("models:/small@best", "no alias 'best'; did you mean 'latest'"),
        ("models:/small", "write models:/small@latest or models:/small/1"),
        ("models:/small/latest", "write models:/small@latest"),
        ("runs/smal", "did you mean 'runs/small'"),
        ("runs", "its runs are|write runs/"),
        ("runs/nothing-yet", "a run without a whole checkpoint yet"),
        ("runs/mlartifacts", "no checkpoint here, it holds .*models/"),
        ("runs/mlflow.db", "a file; name the run folder"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_to_write(
    name: str, remedy: str, twice: Twice, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(twice.checkpoints[0].place).parents[3]
    (home / "runs" / "nothing-yet" / "checkpoints").mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(home)
    with pytest.raises(RegistryError, match=remedy) as refused:
        find_model(name, tracking_uri=twice.uri)
    assert str(refused.value).startswith(f"{name}: ")


def test_no_password_of_the_job_reaches_the_record(home: Path, twice: Twice) -> None:
    tracked(make_job(home, "secretive"), [metrics(64, 0.5)])
    record = [home / "runs" / "mlflow.db", *(home / "runs" / "mlartifacts").rglob("*"), *home.rglob("mlflow.json")]
    assert len(record) > 20
    assert not [path for path in record if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with run_mlflow(tmp_path) as uri:
        yield uri


def test_a_server_takes_the_run_and_the_model_and_gives_it_back(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    job = make_job(tmp_path, "remote", tracking={"uri": server, "registered_model": "drawer"})
    its = tracked(job, [metrics(64, 0.5), samples(job, 64)])
    run_id = run_id_of(its)
    source = write_checkpoint(job, 64)
    published = publish(job, source, run_id=run_id, tracking_uri=server, sample_prompts=PROMPTS)
    assert published.alias_uri == "models:/drawer@latest"
    client = MlflowClient(server, registry_uri=server)
    assert len(client.list_artifacts(run_id, "images")) == 2
    found = find_model(published.alias_uri, tracking_uri=server)
    assert Path(found.place).is_relative_to(tmp_path / "cache")
    assert np.array_equal(Model.load(found).draw(PROMPTS), Model.load(source).draw(PROMPTS))
    assert find_model(published.uri, tracking_uri=server).place == found.place
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow puts the model's code there
    table = mlflow.pyfunc.load_model(published.uri).predict(pd.DataFrame({"prompt": PROMPTS}), params={"seed": 3})
    drawn = [np.asarray(Image.open(io.BytesIO(image))) for image in table["png"]]
    assert np.array_equal(drawn, Model.load(source).draw(PROMPTS, seed=3))
    assert not (Path(os.getcwd()) / "mlruns").exists()
