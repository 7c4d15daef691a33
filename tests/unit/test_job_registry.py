"""[registry] of a job: gates that no model could pass are told before a GPU is held; `check` prints them as TOML."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from gen_dist.job.errors import JobError
from gen_dist.job.load import load_job, load_resolved
from gen_dist.job.report import text

JOB = """
name = "try"
recipe = "ddpm"
[data]
url = "embedded://emoji"
train = "train-*.tar"
heldout = "heldout-*.tar"
[train]
total_images = 10_000
[registry]
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(gates: str) -> str:
    Path("try.toml").write_text(JOB + gates)
    return "try.toml"


GATES = """
store = "models"
at_least = {"heldout/psnr_db" = 18, "loss/a.b" = -1.5}
better_than_champion = true
sample_grid = true
"""


def test_gates_are_written_in_the_job_and_printed_as_toml_of_the_same_job() -> None:
    job = load_job(write(GATES))
    assert job.registry.at_least == {"heldout/psnr_db": 18.0, "loss/a.b": -1.5}
    assert job.registry.store == os.path.abspath("models")
    assert job.registry.bit_equal_reload
    printed = text(job, file="try.toml").partition("\nsteps")[0]
    assert '"heldout/psnr_db" = 18.0' in printed
    assert load_resolved(tomllib.loads(printed)) == job


def test_a_gate_may_be_written_on_the_command_line() -> None:
    job = load_job(write(""), ['registry.at_most={"heldout/noise" = 0.2}'])
    assert job.registry.at_most == {"heldout/noise": 0.2}


@pytest.mark.parametrize(
    ("gates", "overrides", "line"),
    [
        (
            'at_least = {"heldout/psnr_db" = 18}',
            ["data.heldout="],
            "registry.at_least: heldout/psnr_db is measured on held-out images, and data.heldout is empty; name shards",
        ),
        ("at_least = {a = 2}\nat_most = {a = 1}", [], "registry.at_least: a would have to be at least 2 and at most 1"),
        (
            "at_least = {a = 1}\nat_most = {a = 2}\nbetter_than_champion = true",
            [],
            "registry.at_least: a is also in registry.at_most: better could be higher or lower; name it in one of them",
        ),
        ("better_than_champion = true", [], "registry.better_than_champion=true: no metric is named to compare; name"),
        (
            "sample_grid = true",
            ["train.sample_every_images=0"],
            "registry.sample_grid=true: train.sample_every_images=0 draws no grid; write sample_every_images above 0",
        ),
        (
            'store = "embedded://emoji"',
            [],
            "registry.store='embedded://emoji': not a place to write to; write s3://bucket/prefix",
        ),
        (
            'store = "s3://"',
            [],
            "registry.store='s3://': not a place to write to; write s3://bucket/prefix, a folder, or nothing",
        ),
        ("at_leest = {}", [], "registry.at_leest={}: unknown key; did you mean 'at_least'?"),
        ('at_least = {a = "1"}', [], "registry.at_least.a='1': expected a number; write 1 without quotes"),
        ("at_least = {a = nan}", [], "registry.at_least.a=nan: "),
    ],
)
def test_what_cannot_be_is_one_line(gates: str, overrides: list[str], line: str) -> None:
    with pytest.raises(JobError) as refused:
        load_job(write(gates), overrides)
    (only,) = refused.value.lines
    assert line in only
