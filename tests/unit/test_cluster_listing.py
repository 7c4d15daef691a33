"""Which jobs of a cluster are trainings, what their next number is, and how far their logs say they came."""

from __future__ import annotations

import io
from typing import Any

import pytest
from ray.job_submission import JobDetails
from rich.console import Console

from gen_dist.cli.progress import View, summary
from gen_dist.cluster import listing


def job(job_id: str, *, run: str = "/runs/a/checkpoints", status: str = "RUNNING", **facts: Any) -> JobDetails:
    metadata = {listing.RUN: run, listing.NAME: job_id.rpartition("-")[0]} if run else {}
    return JobDetails(
        type="SUBMISSION", submission_id=job_id, status=status, entrypoint="true", metadata=metadata, **facts
    )


def test_only_trainings_are_listed_oldest_first() -> None:
    found = [job("b-2", start_time=2000), job("doctor-1", run=""), job("a-1", start_time=1000)]
    assert [one.submission_id for one in listing.trainings(found)] == ["a-1", "b-2"]


def test_numbers_go_on_from_the_largest_of_the_same_name() -> None:
    assert listing.next_id("a", []) == "a-1"
    assert listing.next_id("a", [job("a-9"), job("a-10"), job("a-b-77"), job("a-x")]) == "a-11"
    assert listing.next_id("a-b", [job("a-b-77"), job("doctor-5", run="")]) == "a-b-78"


@pytest.mark.parametrize(
    ("status", "exit_code", "state"),
    [
        ("PENDING", None, "pending"),
        ("RUNNING", None, "running"),
        ("SUCCEEDED", 0, "succeeded"),
        ("STOPPED", None, "stopped"),
        ("FAILED", 143, "stopped"),
        ("FAILED", 130, "stopped"),
        ("FAILED", 2, "failed"),
        ("FAILED", None, "failed"),
    ],
)
def test_a_driver_that_saved_and_ended_after_a_signal_was_stopped(
    status: str, exit_code: int | None, state: str
) -> None:
    assert listing.state(job("a-1", status=status, driver_exit_code=exit_code)) == state


def test_a_failure_that_no_log_tells_has_rays_reason() -> None:
    assert listing.why(job("a-1", status="FAILED", driver_exit_code=2, message="exit code 2, logs: ...")) == ""
    assert listing.why(job("a-1", status="STOPPED", message="Job was intentionally stopped.")) == ""
    gone = job("a-1", status="FAILED", message="Unexpected error occurred:\nThe actor died")
    assert listing.why(gone) == "Unexpected error occurred: The actor died"


def test_a_run_is_under_way_once_and_other_folders_are_other_runs() -> None:
    over, running = job("a-1", status="FAILED"), job("a-2")
    assert listing.under_way("/runs/a/checkpoints", [over]) is None
    found = listing.under_way("/runs/a/checkpoints", [over, running])
    assert found is not None
    assert found.submission_id == "a-2"
    assert listing.under_way("/bob/a/checkpoints", [over, running]) is None


def test_an_id_or_the_name_of_a_run_leads_to_a_job() -> None:
    jobs = [job("a-1", start_time=1, status="STOPPED"), job("a-2", start_time=2), job("doctor-x", run="")]
    found = {text: listing.meant(text, jobs)[0] for text in ("a-1", "a", "doctor-x")}
    assert {text: one and one.submission_id for text, one in found.items()} == {
        "a-1": "a-1",
        "a": "a-2",
        "doctor-x": "doctor-x",
    }
    assert listing.meant("a-3", jobs) == (None, "known: a-1, a-2")


def test_images_are_read_from_the_lines_that_a_run_really_says() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80)
    assert listing.images("Runtime env is setting up.\n") is None
    with View(console, total_images=12_800) as view:
        view({"kind": "metrics", "images": 1280, "metrics": {"loss/a/noise": 0.5, "speed/images_per_s": 17.0}})
        assert listing.images(out.getvalue()) == 1280
        view({"kind": "metrics", "images": 12_800, "metrics": {"loss/a/noise": 0.5, "speed/images_per_s": 17.0}})
    assert listing.images(out.getvalue()) == 12_800
    assert not listing.ended_by_itself(out.getvalue())
    summary(console, {"stopped": "12,816 images in 3 s"})  # as gen_dist.cli.train says it
    assert listing.images(out.getvalue()) == 12_816
    assert listing.ended_by_itself(out.getvalue())


def test_a_row_tells_when_a_job_started_and_how_long_it_took() -> None:
    row = listing.training(
        job("a-1", status="SUCCEEDED", start_time=5_000, end_time=65_000), "done       64 images in 9 s"
    )
    assert row == listing.Training("a-1", "a", "succeeded", 64, 5.0, 60.0)
