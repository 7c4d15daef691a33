"""What DeepSpeed wrote is taken over bit for bit, from every ZeRO stage; and only from people who are trusted."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen_dist.checkpoint import CheckpointError, candidates
from gen_dist.checkpoint.deepspeed_import import SECTIONS, Imported, import_deepspeed, read_deepspeed
from gen_dist.checkpoint.read import open_checkpoint
from gen_dist.cli.app import main
from gen_dist.job.load import load_job
from gen_dist.job.spec import JobSpec
from gen_dist.recipes import catalog
from gen_dist.registry.find import find_model
from gen_dist.sample.model import Model
from gen_dist.store.local import LocalStore
from gen_dist.train.fits import check_fits
from tests.contract import native, reshard
from tests.support.ranks import Ranks

TOLD = "the recipe's own state, of which DeepSpeed keeps nothing"
WAYS = [reshard.Way(2, precision, stage) for precision in ("fp32", "bf16") for stage in range(4)]


def save_a_step(job: JobSpec, folder: Path) -> dict[str, np.ndarray]:
    """DeepSpeed's own checkpoint of a job's only group after an empty step, and its weights. Runs on ranks."""
    from gen_dist.train.engines import Engines
    from gen_dist.train.masters import whole_weights
    from gen_dist.train.process import prepare

    prepare(job)
    recipe = catalog.build(job.recipe, job.model)
    engines = Engines(recipe.groups(), recipe.networks(), job)
    ((name, member),) = engines.items()
    with engines.only(name):
        member.backward(sum(parameter.sum() for parameter in member.parameters.values()), last=True)
        member.step(1e-3)
    member.freeze(False)
    member.engine.save_checkpoint(str(folder))
    return {key: value.detach().numpy().copy() for key, value in whole_weights(member)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("native")


@pytest.fixture(scope="module")
def truths(pair: Ranks, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    return dict(pair.run(native.save, WAYS, folder)[0])


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_every_stage_and_precision_is_taken_over(
    truths: dict[str, dict[str, np.ndarray]], folder: Path, tmp_path: Path, way: reshard.Way
) -> None:
    for group in ("a", "b"):
        imported = native.read(folder / way.name / group, tmp_path / group, truths[way.name], group)
        native.assert_is(imported, truths[way.name], group)


def test_a_universal_checkpoint_is_taken_over_by_another_process(
    truths: dict[str, dict[str, np.ndarray]], folder: Path, tmp_path: Path
) -> None:
    program = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    source, dest = folder / "2-fp32-2" / "a" / "tag", tmp_path / "universal"
    subprocess.run([*program, "--input_folder", source, "--output_folder", dest], check=True, capture_output=True)
    imported = read_deepspeed(dest, trained=native.trained(truths["2-fp32-2"], "a"), trust=True)
    native.assert_is(imported, truths["2-fp32-2"], "a")
    store = LocalStore(tmp_path / "run")
    shapes = {name: tuple(value.shape) for name, value in imported.sections["weight"].items()}
    name = import_deepspeed(store, {"a": imported}, expected={"a": shapes}, images=640, facts={"job": {}})
    assert candidates(store) == [name]
    found = open_checkpoint(store, name)
    found.verify()
    assert found.manifest.facts["group_steps"] == {"a": reshard.STEPS}
    for key, value in truths["2-fp32-2"].items():
        if key.startswith(tuple(f"{section}/a/" for section in SECTIONS)):
            assert np.array_equal(found.tensor(key).numpy(), value)
    with pytest.raises(CheckpointError, match="holds checkpoints already; import into a run with another name"):
        import_deepspeed(store, {"a": imported}, expected={"a": shapes}, images=640, facts={})


def test_a_job_goes_on_from_what_the_command_imported(
    pair: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from gen_dist.data.source import data_digest

    file, folder = "jobs/smoke/ddpm.toml", tmp_path / "native"
    changes = [f"run.folder={tmp_path / 'runs'}"]
    job = load_job(file, changes)
    (group,) = catalog.build(job.recipe, job.model).groups()
    weights = pair.run(save_a_step, job, folder)[0]
    words = ["import-deepspeed", file, "--set", *changes, "--group", f"{group}={folder}", "--images", "640"]
    assert main(words) == 2
    assert "add --trust if you know who wrote it" in capsys.readouterr().err
    assert main([*words, "--trust"]) == 0
    assert "it goes on from there" in capsys.readouterr().out
    store = LocalStore(tmp_path / "runs" / job.name / "checkpoints")
    found = open_checkpoint(store, candidates(store)[0])
    assert (found.manifest.images, found.manifest.facts["group_steps"]) == (640, {group: 1})
    check_fits(found, job=job, frozen={}, data_digest=data_digest(job.data))
    for key, value in weights.items():
        assert np.array_equal(found.tensor(f"weight/{group}/{key}").numpy(), value)


@pytest.mark.parametrize("recipe", ["latent_diffusion", "ddpm", "dcgan", "gigagan"])
def test_what_was_imported_is_a_model_that_draws(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of every recipe, also where it keeps state beside its networks, which no checkpoint of DeepSpeed holds."""
    file, changes = f"jobs/smoke/{recipe}.toml", [f"run.folder={tmp_path / 'runs'}"]
    job = load_job(file, changes)
    made = catalog.build(job.recipe, job.model)
    nets, groups = made.networks(), {name: group.nets for name, group in made.groups().items()}
    held = {
        name: {f"nets.{net}.{key}": value for net in its for key, value in nets[net].state_dict().items()}
        for name, its in groups.items()
    }

    def read(folder: Path, **_: Any) -> Imported:
        own = {f"nets.{net}.{key}" for net in nets for key, _ in nets[net].named_parameters()}
        weights = {key: value.detach() for key, value in held[folder.name].items() if key in own}
        buffers = {key: value for key, value in held[folder.name].items() if key not in own}
        return Imported(7, {"weight": weights, "exp_avg": {}, "exp_avg_sq": {}, "buffer": buffers})

    monkeypatch.setattr("gen_dist.checkpoint.deepspeed_import.read_deepspeed", read)
    words = [word for name in groups for word in ("--group", f"{name}={name}")]
    assert main(["import-deepspeed", file, "--set", *changes, *words, "--images", "640", "--trust"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("initial ")]
    state = made.state_dict()
    assert told == ([f"initial    {', '.join(state)}: {TOLD}"] if state else [])
    source = find_model(str(tmp_path / "runs" / job.name))
    assert {key: value.tolist() for key, value in source.recipe_state().items()} == {
        key: value.tolist() for key, value in state.items()
    }
    assert Model.load(source).draw([""], seed=1).shape[0] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--group", "x"], "expected NAME=FOLDER; write such as --group "),
        (["--group", "x=y"], "the recipe has no such group"),
        (["--group", "generator=y"], "no checkpoint for group 'discriminator'; add --group discriminator=FOLDER"),
    ],
)
def test_a_group_that_is_not_named_rightly_is_told(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-deepspeed", "jobs/smoke/dcgan.toml", "--images", "1", *words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        ({"x": (2,), "y": (1,)}, "group a: 'y' is missing (1 missing, 0 unknown); give the job the model"),
        ({}, "group a: 'x' is none of the model's (0 missing, 1 unknown)"),
        ({"x": (3,)}, "group a: x is (2,), the model has (3,)"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, expected: dict[str, Any], says: str) -> None:
    imported = Imported(1, {section: {"x": torch.zeros(2)} for section in SECTIONS})
    with pytest.raises(CheckpointError, match=re.escape(says)):
        import_deepspeed(LocalStore(tmp_path), {"a": imported}, expected={"a": expected}, images=64, facts={})


class Poison:
    """Runs when it is loaded, and writes down what it could see."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"import os; open({str(self.path)!r}, 'w').write(repr(dict(os.environ)))",)


def test_a_pickle_runs_only_where_it_is_trusted_and_sees_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-1234")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-5678")
    folder, seen = tmp_path / "tag", tmp_path / "seen"
    folder.mkdir()
    torch.save({"module": Poison(seen)}, folder / "mp_rank_00_model_states.pt", pickle_module=pickle)
    with pytest.raises(CheckpointError, match="is a pickle, which can run any code on this machine; add --trust"):
        read_deepspeed(folder, trained=[], trust=False)
    assert not seen.exists()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_deepspeed(folder, trained=[], trust=True)
    assert "canary" not in seen.read_text()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "canary-1234"


def test_what_is_no_checkpoint_of_deepspeed_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder; name the folder that DeepSpeed's save_checkpoint wrote"):
        read_deepspeed(tmp_path / "gone", trained=[], trust=True)
    with pytest.raises(CheckpointError, match=r"cannot be read \(.*no \*mp_rank_00_model_states\.pt"):
        read_deepspeed(tmp_path, trained=[], trust=True)
