"""What a run may go on from: checkpoints of the same recipe, settings, seed and data, also of an older release."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gen_dist.checkpoint import Checkpoint, CheckpointError
from gen_dist.job.load import load_job, resolve
from gen_dist.train.fits import check_fits
from tests.support.cli import ROOT

JOB = load_job(str(ROOT / "jobs" / "smoke" / "dcgan.toml"), [])


@dataclass
class Kept:
    """As much of a checkpoint as is looked at."""

    facts: dict[str, Any]
    url: str = "runs/x/images-1"

    @property
    def manifest(self) -> SimpleNamespace:
        return SimpleNamespace(facts=self.facts)


def fits(**model: Any) -> None:
    """A checkpoint whose job had these settings besides; None: its release did not know the setting."""
    job = resolve(JOB)
    changed = {key: value for key, value in {**job["model"], **model}.items() if value is not None}
    facts = {"job": {**job, "model": changed}, "frozen": {}, "data_digest": "d" * 64}
    check_fits(cast(Checkpoint, Kept(facts)), job=JOB, frozen={}, data_digest="d" * 64)


def test_a_checkpoint_of_the_same_job_fits() -> None:
    fits()


def test_a_setting_that_an_older_release_did_not_know_was_at_its_default() -> None:
    fits(r1_gamma=None)  # the smoke job leaves it at its default


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"image_px": 64}, "written with model.image_px=64, the job now says "),
        ({"image_px": None}, "written with model.image_px=.*, the job now says "),  # the smoke job sets another value
        ({"gone": 1}, "written with model.gone=1, the job now says None"),
    ],
)
def test_another_setting_is_told_with_what_it_was(model: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        fits(**model)
