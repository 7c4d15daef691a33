"""run.keep_best: the best checkpoints by a held-out score, refused where no checkpoint could have one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen_dist.checkpoint import Keep
from gen_dist.job.errors import JobError
from gen_dist.job.load import load_job
from gen_dist.registry.runs import retention

JOB = """
name = "try"
recipe = "ddpm"
[data]
url = "embedded://emoji"
train = "train-*.tar"
heldout = "heldout-*.tar"
[train]
total_images = 10_000
sample_every_images = 4_000
checkpoint_every_images = 2_000
[run]
keep_every_images = 5_000
keep_best = 2
best_metric = "heldout/noise"
best_is = "lowest"
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("try.toml").write_text(JOB)
    return "try.toml"


def test_the_job_says_what_retention_keeps(job: str) -> None:
    wanted = Keep(last=2, every_images=5_000, best=2, metric="heldout/noise", highest_is_best=False)
    assert retention(load_job(job).run) == wanted


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("run.best_metric=", "run.keep_best=2: run.best_metric='' is no held-out score; name one there, such as"),
        ("run.best_metric=loss/x", "run.keep_best=2: run.best_metric='loss/x' is no held-out score"),
        ("data.heldout=", "run.keep_best=2: heldout/noise is measured on held-out images, and data.heldout is empty"),
        (
            "train.sample_every_images=3000",
            "run.keep_best=2: scores are measured every train.sample_every_images=3000 images, where no checkpoint is ",
        ),
    ],
)
def test_a_best_that_nothing_could_tell_is_refused(job: str, override: str, line: str) -> None:
    with pytest.raises(JobError) as refused:
        load_job(job, [override])
    assert any(line in one for one in str(refused.value).splitlines()), refused.value
