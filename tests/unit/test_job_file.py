"""A job that cannot run is told before anything starts: a line for each problem, with file, key, value and remedy."""

from __future__ import annotations

import json
import pickle
import tomllib
from pathlib import Path

import pytest

from gen_dist.job.errors import GenDistError, JobError
from gen_dist.job.load import load_job, load_resolved, resolve
from gen_dist.job.report import report, text
from gen_dist.job.spec import JobSpec

RECIPE = """
from __future__ import annotations
from typing import ClassVar
import torch
from pydantic import Field, PositiveInt
from gen_dist.job.spec import Spec

class Settings(Spec):
    zero_max: ClassVar[dict[str, int]] = {"generator": 3, "discriminator": 2}
    image_px: PositiveInt = 64
    channels: tuple[int, ...] = (32, 64)
    learning_rate: float = Field(1e-4, gt=0)
"""
JOB = """
name = "try"
recipe = "gan"
[data]
url = "shards"
train = "train-*.tar"
heldout = "heldout-*.tar"
[train]
total_images = 10_000
prompts = ["red heart"]
[cluster]
num_workers = 2
"""


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog of one recipe; the current folder holds a job file and the shards it names."""
    recipes = tmp_path / "gen_dist" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "catalog.py").write_text('RECIPES: dict[str, str] = {"gan": "gen_dist.recipes.gan"}\n')
    (recipes / "gan.py").write_text(RECIPE)
    (tmp_path / "shards").mkdir()
    for name in ("train-0.tar", "train-1.tar", "heldout-0.tar"):
        (tmp_path / "shards" / name).write_bytes(b"\0" * 1024)
    (tmp_path / "try.toml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    return recipes / "catalog.py"


def loaded(catalog: Path, *overrides: str, job: str = JOB) -> JobSpec:
    Path("try.toml").write_text(job)
    return load_job("try.toml", overrides, catalog=catalog)


def lines(catalog: Path, *overrides: str, job: str = JOB) -> list[str]:
    with pytest.raises(JobError) as refused:
        loaded(catalog, *overrides, job=job)
    return refused.value.lines


def test_every_default_is_written_out_and_the_resolved_job_is_the_same_job(catalog: Path) -> None:
    job = loaded(catalog)
    resolved = json.loads(json.dumps(resolve(job)))
    assert resolved["model"] == {"image_px": 64, "channels": [32, 64], "learning_rate": 1e-4}
    assert resolved["train"]["zero_stage"] == 1
    assert load_resolved(resolved, catalog=catalog) == job
    assert pickle.loads(pickle.dumps(job)) == job


def test_what_check_prints_is_a_job_file_of_the_same_job(catalog: Path) -> None:
    job = loaded(catalog, "train.zero_stages.discriminator=2", "name=other")
    printed = text(job, file="try.toml", catalog=catalog).partition("\nsteps")[0]
    assert load_resolved(tomllib.loads(printed), catalog=catalog) == job
    assert "total_images = 10_000  # no default" in printed
    assert 'train = "train-*.tar"  # default: "*.tar"' in printed
    assert "\nseed = 0\n" in printed


def test_check_counts_local_shards_without_opening_them(catalog: Path) -> None:
    data = report(loaded(catalog), file="try.toml", catalog=catalog)["derived"]["data"]
    assert data == {"train": {"num_shards": 2, "bytes": 2048}, "heldout": {"num_shards": 1, "bytes": 1024}}


@pytest.mark.parametrize(
    ("found", "written", "line"),
    [
        ("[train]", "[train]\nzero_stge = 1", "train.zero_stge=1: unknown key; did you mean 'zero_stage'?"),
        ("[cluster]", "[cluster]\nprompts = []", "cluster.prompts=[]: unknown key; did you mean 'train.prompts'?"),
        ('"gan"', '"gam"', "recipe='gam': unknown recipe; did you mean 'gan'? known: gan"),
        ('"try"', '"My Try"', "name='My Try': expected lower-case letters, digits and single dashes; write 'my-try'"),
        (
            "[cluster]",
            "global_batch_images = 200\n[cluster]",
            (
                "train.global_batch_images=200: not a multiple of 64 (2 workers x 32 images of"
                " train.micro_batch_images); use 192 or 256, or change train.micro_batch_images"
            ),
        ),
        ("10_000", "1e5", "train.total_images=100000.0: expected a whole number above 0; write 100000"),
        ("10_000", '"5"', "train.total_images='5': expected a whole number above 0; write 5 without quotes"),
        ("10_000", "-5", "train.total_images=-5: expected a whole number above 0; write such as 100000"),
        ("10_000", "true", "train.total_images=true: expected a whole number above 0; write such as 100000"),
        (
            "total_images = 10_000",
            "",
            "train.total_images: missing; write such as `total_images = 100000` under [train]",
        ),
        ('"red heart"', '"red heart", 3', "train.prompts[1]=3: expected a text; write '3' with quotes"),
        (
            '"red heart"',
            '"red heart", " "',
            "train.prompts=['red heart', ' ']: prompt 2 of 2 is empty; write a caption there or remove it",
        ),
        (
            "[cluster]",
            'precision = "fp16"\n[cluster]',
            "train.precision='fp16': unknown value; did you mean 'bf16'? known: fp32, bf16",
        ),
        (
            "[cluster]",
            "warmup_images = 20_000\n[cluster]",
            (
                "train.warmup_images=20000: the run ends earlier, after train.total_images=10000; write at most 10000,"
                " such as 1000"
            ),
        ),
        (
            "[cluster]",
            "zero_stages.discriminator = 3\n[cluster]",
            (
                "train.zero_stages.discriminator=3: above 2, the highest of group 'discriminator' (a phase of it"
                " differentiates twice, which weights split by ZeRO 3 do not survive); write 2"
            ),
        ),
        (
            "[cluster]",
            "zero_stage = 3\n[cluster]",
            (
                "train.zero_stage=3: above 2, the highest of group 'discriminator' (a phase of it differentiates twice,"
                " which weights split by ZeRO 3 do not survive); write train.zero_stages.discriminator = 2, or"
                " train.zero_stage = 2"
            ),
        ),
        (
            "[cluster]",
            "zero_stages.discriminater = 1\n[cluster]",
            (
                "train.zero_stages.discriminater=1: recipe 'gan' has no such group; did you mean 'discriminator'?"
                " known: generator, discriminator"
            ),
        ),
        (
            "num_workers = 2",
            "num_workers = [3, 2]",
            "cluster.num_workers=[3, 2]: expected 1 <= min <= max <= 65536; write such as 2 or [2, 8]",
        ),
        (
            "[cluster]",
            "[model]\nimage_pxs = 3\n[cluster]",
            "model.image_pxs=3: unknown key; did you mean 'image_px'?",
        ),
        (
            "[cluster]",
            "[model]\nlearning_rate = 0\n[cluster]",
            "model.learning_rate=0: expected a number above 0; write such as 0.0001, the default",
        ),
        (
            '"shards"',
            '"gs://bucket"',
            "data.url='gs://bucket': not an address of data; write embedded://emoji, a folder, or s3://bucket/prefix",
        ),
        (
            '"train-*.tar"',
            '"*.tar"',
            (
                "data.heldout='heldout-*.tar': 1 of its shards are trained on too (heldout-0.tar); write a"
                " data.train that leaves them out, it is '*.tar'"
            ),
        ),
        (
            '"train-*.tar"',
            '"trian-*.tar"',
            (
                "data.train='trian-*.tar': matches no file in shards; write a pattern of what is there: heldout-0.tar,"
                " train-0.tar, train-1.tar"
            ),
        ),
    ],
)
def test_a_mistake_is_one_line_with_file_key_value_and_remedy(
    catalog: Path, found: str, written: str, line: str
) -> None:
    assert found in JOB
    assert lines(catalog, job=JOB.replace(found, written, 1)) == [f"try.toml: {line}"]


def test_all_mistakes_are_told_at_once_and_a_typo_causes_no_second_line(catalog: Path) -> None:
    job = JOB.replace("[train]", "[train]\nglobal_batch_imags = 200\nwarmup_images = 20_000\nclip_norm = -1")
    told = [line.split("=")[0] for line in lines(catalog, job=job.replace('"shards"', '"shrads"'))]
    keys = ["train.clip_norm", "train.global_batch_imags", "train.warmup_images", "data.url"]
    assert told == [f"try.toml: {key}" for key in keys]


def test_a_file_without_its_tables_is_told_what_to_write(catalog: Path) -> None:
    told = lines(catalog, job="")
    assert [line.split(": ")[1] for line in told] == ["name", "recipe", "data.url", "train.total_images"]
    assert all("missing; write such as" in line for line in told)


def test_broken_toml_is_told_with_its_line(catalog: Path) -> None:
    assert "at line 2" in lines(catalog, job="\nname = my-run\n")[0]


def test_a_missing_file_lists_the_job_files_nearby(catalog: Path) -> None:
    with pytest.raises(JobError, match=r"tyr\.toml: no such job file; did you mean 'try\.toml'\?"):
        load_job("tyr.toml", catalog=catalog)


def test_a_missing_data_folder_is_told_before_anything_starts(catalog: Path) -> None:
    (told,) = lines(catalog, "data.url=/nowhere/at/all")
    assert told.startswith("--set data.url=/nowhere/at/all: no such folder; create it")


def test_a_range_of_workers_whose_smallest_does_not_work_is_told_which_do(catalog: Path) -> None:
    (told,) = lines(catalog, job=JOB.replace("num_workers = 2", "num_workers = [3, 9]").replace("10_000", "99_999"))
    assert told == (
        "try.toml: train.global_batch_images=64: not a multiple of 96 (3 workers, the fewest of"
        " cluster.num_workers=[3, 9], x 32 images of train.micro_batch_images); use 96, or change"
        " train.micro_batch_images"
    )
    few = "train.micro_batch_images=8"
    (told,) = lines(catalog, few, "cluster.num_workers=[3, 9]")
    assert told.endswith("; use 48 or 72, or let cluster.num_workers begin with one of 4, 8")
    loaded(catalog, few, "cluster.num_workers=[4, 9]")


def test_a_range_of_workers_is_taken_with_the_numbers_in_it_that_split_the_batch(catalog: Path) -> None:
    job = loaded(catalog, "train.micro_batch_images=4", "cluster.num_workers=[2, 9]")
    facts = report(job, file="try.toml", catalog=catalog)
    assert facts["derived"]["accumulation"] == {"2": 8, "4": 4, "8": 2}
    assert any("cluster.num_workers=[2, 9]: at most 8 of them" in warning for warning in facts["warnings"])
    whole = loaded(catalog, "train.micro_batch_images=4", "cluster.num_workers=[2, 8]")
    assert not any("of them" in warning for warning in report(whole, file="try.toml", catalog=catalog)["warnings"])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.total_images=3_000", 3000),
        ("train.precision=bf16", "bf16"),
        ("name=2024", "2024"),
        ("data.s3.region=3", "3"),
        ('train.prompts=["a", "b"]', ["a", "b"]),
        ("train.zero_stages={generator=3}", {"generator": 3}),
        ("cluster.num_workers=[1,2]", [1, 2]),
        ("cluster.use_gpu=true", True),
        ("data.caption=json:name", "json:name"),
        ("tracking.uri=http://host:5000/?a=b", "http://host:5000/?a=b"),
    ],
)
def test_an_override_reaches_any_key(catalog: Path, override: str, value: object) -> None:
    found: object = resolve(loaded(catalog, override))
    for part in override.partition("=")[0].split("."):
        assert isinstance(found, dict)
        found = found[part]
    assert found == value


def test_a_nested_override_joins_what_the_file_has(catalog: Path) -> None:
    job = loaded(catalog, "train.zero_stages.discriminator=0", "train.zero_stages.generator=3", "model.image_px=32")
    assert job.train.zero_stages == {"discriminator": 0, "generator": 3}
    assert job.model["image_px"] == 32


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.steps=3", "--set train.steps=3: unknown key; remove it; known of [train]: total_images,"),
        ("train.zero_stge=3", "--set train.zero_stge=3: unknown key; did you mean 'zero_stage'?"),
        ("train.total_images=x", "--set train.total_images=x: expected a whole number above 0; write such as 100000"),
        ("train.zero_stages={generator=7}", "--set train.zero_stages={generator=7}: train.zero_stages.generator=7: "),
        ("cluster.use_gpu=True", "--set cluster.use_gpu=True: expected true or false; write true without quotes"),
        ("seed.x=3", "--set seed.x=3: seed={x = 3}: expected a whole number of at least 0"),
        ("name.x=3", "--set name.x=3: 'name' holds a value, not a table; write --set name=..."),
        ("cluster.num_workers=3", "--set cluster.num_workers=3: train.global_batch_images=64: not a multiple of 96"),
        ("total_images", "--set total_images: not of the form key=value; write such as --set "),
        ("a b=3", "--set a b=3: not of the form key=value; write such as --set "),
        ("seed=1\nname='x'", "--set seed=1\nname='x': expected a whole number of at least 0"),
    ],
)
def test_a_wrong_override_is_told_as_what_was_typed(catalog: Path, override: str, line: str) -> None:
    with pytest.raises(JobError) as refused:
        loaded(catalog, override)
    assert len(refused.value.problems) == 1
    assert refused.value.problems[0].startswith(line)


def test_an_error_survives_the_way_from_a_worker(catalog: Path) -> None:
    with pytest.raises(JobError) as refused:
        loaded(catalog, "train.steps=3", "seed=-1")
    copy = pickle.loads(pickle.dumps(refused.value))
    assert isinstance(copy, GenDistError)
    assert isinstance(copy, ValueError)
    assert copy.lines == refused.value.lines
    assert len(copy.lines) == 2
