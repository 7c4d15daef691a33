"""run.keep_best: the best checkpoints by a held-out score, refused where no checkpoint could have one."""

from __future__ import annotations

import pytest

from gen_dist.checkpoint import Keep
from gen_dist.job.errors import JobError
from gen_dist.job.load import load_job
from gen_dist.registry.runs import retention
from tests.support.cli import ROOT

JOB = str(ROOT / "jobs" / "smoke" / "ddpm.toml")  # a checkpoint and a grid every 160 images
KEPT = ["run.keep_every_images=5000", "run.keep_best=2", "run.best_metric=heldout/noise", "run.best_is=lowest"]


def test_the_job_says_what_retention_keeps() -> None:
    wanted = Keep(last=2, every_images=5_000, best=2, metric="heldout/noise", highest_is_best=False)
    assert retention(load_job(JOB, KEPT).run) == wanted


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("run.best_metric=", "run.keep_best=2: run.best_metric='' is no held-out score; name one there, such as"),
        ("run.best_metric=loss/x", "run.keep_best=2: run.best_metric='loss/x' is no held-out score"),
        ("data.heldout=", "run.keep_best=2: heldout/noise is measured on held-out images, and data.heldout is empty"),
        (
            "train.checkpoint_every_images=0",
            "run.keep_best=2: train.checkpoint_every_images=0 writes one checkpoint, at the end; write a number there",
        ),
        (
            "train.sample_every_images=200",
            "run.keep_best=2: scores are measured every train.sample_every_images=200 images, where no checkpoint is ",
        ),
    ],
)
def test_a_best_that_nothing_could_tell_is_refused(override: str, line: str) -> None:
    with pytest.raises(JobError) as refused:
        load_job(JOB, [*KEPT, override])
    assert any(line in one for one in str(refused.value).splitlines()), refused.value
