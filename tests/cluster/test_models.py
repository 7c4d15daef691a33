"""`gen-dist models` on a real MLflow: what a person sees, models kept in a bucket, and a server that refers to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from gen_dist import cli
from gen_dist.registry.cursor import Cursor
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.evaluated import measured_at, record_evaluated
from gen_dist.registry.lineage import short_lineage_of
from gen_dist.registry.origin import Origin
from gen_dist.registry.promote import delete, promote
from gen_dist.registry.registered import Registered
from tests.support.gateway import Gateway, run_gateway
from tests.support.mlflow_server import run_mlflow
from tests.support.trained import DIGEST, HELDOUT_DIGEST, PROMPTS, PSNR, Trained, make_job


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def two(home: Path) -> Trained:
    """A model of two versions; the second job learns longer, and the first is champion."""
    trained = Trained(make_job(home, "small"))
    trained.version(64, psnr_db=18.0, grid=True)
    longer = Trained(make_job(home, "small", train={"total_images": 1280, "prompts": PROMPTS}))
    longer.version(128, psnr_db=21.5, grid=True)
    promote(Registered.find(trained.client, "small", trained.uri), "1")
    return longer


@pytest.fixture(autouse=True)
def _here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (home / "runs").mkdir(exist_ok=True)
    monkeypatch.chdir(home)


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main(["models", *words]) == code, capsys.readouterr()
    shown = capsys.readouterr()
    return shown.err if code == 2 else shown.out


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(said(capsys, *words, "--json"))


def test_a_list_says_who_is_who(two: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = [line.split() for line in said(capsys, "list").splitlines()]
    assert head == ["model", "versions", "champion", "previous", "candidate", "latest"]
    assert ["small", "2", "1", "-", "2", "2"] in rows
    head, first, second = [line.split() for line in said(capsys, "list", "small").splitlines()]
    assert head[:4] == ["version", "aliases", "images", "made"]
    assert (first[:3], first[-2]) == (["1", "champion", "64"], "18")
    assert (second[:3], second[-2]) == (["2", "candidate", "128"], "21.5")
    assert told(capsys, "list", "small")[1]["scores"] == {PSNR: 21.5, "loss/denoiser/velocity": 0.5}


def test_a_version_is_shown_with_its_lineage(two: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    facts = told(capsys, "show", "small@candidate")
    assert facts == told(capsys, "show", "models:/small/2")
    assert told(capsys, "show", "small")["version"] == "1"  # the champion
    lineage = facts["lineage"]
    assert lineage["data_digest"] == DIGEST
    assert lineage["heldout_digest"] == HELDOUT_DIGEST
    assert lineage["checkpoint"] == two.place(128).name
    assert len(lineage["manifest_sha256"]) == len(lineage["job_sha256"]) == len(lineage["weights_sha256"]) == 64
    assert len(lineage["code"].removesuffix("+changes").split()[1]) == 40  # the commit of this clone
    assert facts["source"].startswith(f"file://{two.folder.parent}/registry/small/{two.place(128).name}-")
    assert facts["scores"][PSNR] == {"value": 21.5, "measured_on": f"heldout-*.tar, seed 0 ({HELDOUT_DIGEST[:36]})"}
    shown = said(capsys, "show", "small@champion")
    assert "model           small/1 (champion)" in shown
    assert "gate            bit_equal_reload: passed: " in shown
    assert "promoted over   none" in shown


def test_two_versions_compare_by_scores_lineage_and_job(two: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    facts = told(capsys, "compare", "small/1", "small@candidate")
    assert facts["scores"][PSNR] == {"values": [18.0, 21.5], "difference": 3.5, "same_data": True}
    assert facts["job"] == {"train.total_images": [640, 1280]}
    assert facts["lineage"]["images"] == ["64", "128"]
    assert "data_digest" not in facts["lineage"]
    shown = said(capsys, "compare", "small/1", "small/2")
    assert shown.splitlines()[0].split() == ["small/1", "small/2", "difference"]
    assert "+3.5" in shown
    assert "job train.total_images" in shown
    assert "their lineage and their jobs are equal" in said(capsys, "compare", "small/1", "small/1")


def test_the_life_of_a_model_on_the_command_line(two: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(capsys, "promote", "small@candidate", "--why", "sharper")
    assert shown.splitlines()[0].startswith("passed     bit_equal_reload: ")
    assert shown.splitlines()[1] == "promote    small/2: champion 1 -> 2, previous none -> 1"
    assert said(capsys, "promote", "small/2", code=2) == "small/2: champion already; nothing to do\n"
    assert said(capsys, "delete", "small/1", code=2).startswith("small/1: not deleted, it is previous; promote another")
    assert said(capsys, "rollback", "small", "--why", "blurred") == (
        "rollback   small/1: champion 2 -> 1, previous 1 -> none\n"
    )
    said(capsys, "pin", "small/2", "--why", "in the paper")
    assert told(capsys, "show", "small/2")["pinned"] == "in the paper"
    said(capsys, "unpin", "small/2")
    lines = said(capsys, "history", "small").splitlines()
    assert [line.split()[2].rstrip(":") for line in lines[-5:]] == ["promote", "promote", "rollback", "pin", "unpin"]
    assert lines[-4].endswith("promote 2: champion 1 -> 2, previous none -> 1; 1 gates passed; sharper")
    assert lines[-3].endswith("rollback 1: champion 2 -> 1, previous 1 -> none; blurred")
    ledger = two.folder.parent / "registry" / "small.json"
    text = ledger.read_text()
    ledger.write_text(text.replace("blurred", "as planned"))
    assert "warning" in said(capsys, "history", "small", code=1)
    ledger.write_text(text)
    assert told(capsys, "history", "small")["fault"] == ""


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["show", "smal"], "smal: no such registered model; did you mean 'small'?"),
        (["show", "small/7"], "small/7: no such version; there are 1, 2"),
        (["show", "small/champion"], "small/champion: no such version; did you mean small@champion?; there are 1, 2"),
        (["show", "small@champoin"], "small@champoin: no such alias; did you mean 'champion'?"),
        (["show", "small@a@b"], "'small@a@b': no name of a model; write small, small/1 or small@champion"),
        (["promote", "small"], "small: which version? There are 1, 2; write small/NUMBER"),
        (["promote", "small/2", "--force"], "--force: say why, for the audit; write --force --why 'REASON'"),
        (["promote", "small/2", "--to", "latest"], "--to latest: always the newest version; write --to champion"),
        (["show", "small", "--tracking-uri", "http://ann:hunter2@127.0.0.1:1"], "MLflow at http://***@127.0.0.1:1: "),
    ],
)
def test_what_leads_nowhere_is_one_line_with_a_remedy(
    words: list[str], remedy: str, two: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    line = said(capsys, *words, code=2)
    assert line.startswith(remedy)
    assert len(line.splitlines()) == 1
    assert "hunter2" not in line


def test_each_evaluated_checkpoint_is_one_model_of_the_record(home: Path) -> None:
    trained = Trained(make_job(home, "scored"))
    sources = [trained.checkpoint(64, scores={PSNR: 17.0}), trained.checkpoint(128)]  # no held-out score of the second
    sources.append(last := trained.checkpoint(192, scores={PSNR: 19.0}))
    number = trained.publish(last).version
    again = trained.publish(last).version
    known = {"experiment": trained.experiment, "run_id": trained.run_id, "job": trained.job}
    for source in sources:  # as a tracker would do, at each checkpoint
        points = measured_at(trained.client, trained.run_id, source.facts.images)
        tags = short_lineage_of(Origin(source), heldout_digest=HELDOUT_DIGEST)
        record_evaluated(trained.client, points, **known, tags=tags)
    models = [
        model
        for model in trained.client.search_logged_models([trained.experiment])
        if model.source_run_id == trained.run_id
    ]
    assert sorted(model.tags["images"] for model in models) == ["192", "64"]
    by_images = {model.tags["images"]: model for model in models}
    points = {point.key: point for point in by_images["64"].metrics}
    assert (points[PSNR].value, points[PSNR].step) == (17.0, 64)
    assert (points[PSNR].dataset_name, points[PSNR].dataset_digest) == ("heldout-*.tar, seed 0", HELDOUT_DIGEST[:36])
    assert points["loss/denoiser/velocity"].dataset_digest == DIGEST[:36]
    its = Registered.find(trained.client, "scored", trained.uri)
    assert its.version(number).tags["model_id"] == its.version(again).tags["model_id"] == by_images["192"].model_id
    assert its.version(again).tags["parent_version"] == number
    curve = trained.client.get_metric_history(trained.run_id, PSNR)
    assert [(point.step, point.value) for point in curve] == [(64, 17.0), (192, 19.0)]  # nothing doubled
    outputs = trained.client.get_run(trained.run_id).outputs.model_outputs
    assert sorted(output.step for output in outputs) == [64, 192]


def test_a_run_that_could_not_register_its_model_does_so_later(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = Trained(make_job(home, "later"))
    trained.checkpoint(64, scores={PSNR: 17.0})
    cursor = Cursor(trained.folder, trained.uri)
    cursor.runs = {"history-1": trained.run_id}
    cursor.save({}, trained.run_id)
    assert told(capsys, "publish", "runs/later")["uri"] == "models:/later/1"
    its = Registered.find(trained.client, "later", trained.uri)
    assert its.version("1").run_id == trained.run_id
    assert its.state().aliases == its.mlflow_aliases() == {"candidate": "1"}


def test_a_score_measured_later_counts_at_the_gates(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = Trained(make_job(home, "measured", registry={"at_most": {"evaluate/own_image_share": 1}}))
    trained.version(64)
    gate = "evaluate/own_image_share at most 1"
    refusal = f"measured/1: not promoted, {gate}: not measured after 64 images, only heldout/psnr_db, loss/"
    assert said(capsys, "promote", "measured/1", code=2).startswith(refusal)
    assert cli.main(["evaluate", "models:/measured/1", "-n", "16", "--record", "--json"]) == 0
    share = json.loads(capsys.readouterr().out)["own_image_share"]
    kept = told(capsys, "show", "measured/1")["scores"]["evaluate/own_image_share"]
    assert kept["value"] == share
    assert kept["measured_on"].startswith("train-*.tar, 16 captions, seed 0 (")
    assert f"passed     {gate}: it is {share:.6g}" in said(capsys, "promote", "measured/1")
    assert cli.main(["evaluate", "runs/measured", "--record"]) == 2
    assert "--record: runs/measured is no registered version; write models:/NAME/VERSION" in capsys.readouterr().err


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture
def bucket(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """[registry] of a job whose models live in the bucket."""
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    s3 = {"endpoint_url": gateway.endpoint_url, "addressing": "path"}
    return {"store": f"s3://{gateway.bucket}/models", "s3": s3}


@pytest.mark.long
def test_models_and_their_ledger_may_live_in_a_bucket(home: Path, bucket: dict[str, Any], gateway: Gateway) -> None:
    trained = Trained(make_job(home, "far", registry=bucket))
    first, second = trained.version(64), trained.version(128)
    its = Registered.find(trained.client, "far", trained.uri)
    assert its.version(first).source.startswith(f"s3://{gateway.bucket}/models/registry/far/{trained.place(64).name}-")
    assert trained.draws_like("models:/far@candidate", 128)
    assert promote(its, second).results[0].passed
    keys = {entry["Key"] for entry in gateway.client().list_objects_v2(Bucket=gateway.bucket)["Contents"]}
    assert "models/registry/far.json" in keys
    assert not (home / "runs" / "registry" / "far.json").exists()
    delete(its, first)
    left = gateway.client().list_objects_v2(Bucket=gateway.bucket, Prefix="models/registry/far/")["Contents"]
    assert {entry["Key"].split("/")[3].rpartition("-")[0] for entry in left} == {trained.place(128).name}
    weights = next(entry["Key"] for entry in left if entry["Key"].endswith("model.safetensors"))
    body = bytearray(gateway.client().get_object(Bucket=gateway.bucket, Key=weights)["Body"].read())
    body[-1] ^= 1
    gateway.client().put_object(Bucket=gateway.bucket, Key=weights, Body=bytes(body))
    number = trained.version(192)
    promote(its, number)
    with pytest.raises(RegistryError, match=r"model\.safetensors has other bytes than were published"):
        promote(its, second)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_mlflow(tmp_path_factory.mktemp("server")) as address:
        yield address


def test_a_server_takes_versions_by_reference_and_keeps_what_it_cannot_see(
    server: str, home: Path, bucket: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    far = Trained(make_job(home, "served-far", registry=bucket, tracking={"uri": server}))
    near = Trained(make_job(home, "served-near", registry={"sample_grid": True}, tracking={"uri": server}))
    client = MlflowClient(server, registry_uri=server)
    for trained, scheme in ((far, "s3://"), (near, "mlflow-artifacts:/")):
        name = trained.job.name
        number = trained.version(64, psnr_db=18.0, grid=True)
        assert client.get_model_version(name, number).source.startswith(scheme)
        shown = said(capsys, "promote", f"{name}/{number}", "--tracking-uri", server)
        assert "failed" not in shown
        assert str(client.get_model_version_by_alias(name, "champion").version) == number
        facts = told(capsys, "show", f"{name}@champion", "--tracking-uri", server)
        assert facts["scores"][PSNR]["value"] == 18.0
        assert trained.draws_like(f"models:/{name}@champion", 64)
