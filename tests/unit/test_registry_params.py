"""Params of a run: every key of the job as one line that MLflow takes."""

from __future__ import annotations

from gen_dist.job.load import resolve
from gen_dist.job.spec import JobSpec
from gen_dist.registry.mlflow_tracker import MOST_PARAM_LETTERS, flat

RAW = {"name": "demo", "recipe": "r", "data": {"url": "embedded://emoji"}, "train": {"total_images": 640}}


def test_every_key_of_a_job_is_one_param() -> None:
    params = dict(flat(resolve(JobSpec.model_validate({**RAW, "model": {"channels": [32, 64]}}))))
    assert params["train.total_images"] == "640"
    assert params["train.clip_norm"] == "1.0"
    assert params["data.s3.addressing"] == "auto"
    assert params["model.channels"] == "[32, 64]"
    assert params["cluster.use_gpu"] == "false"
    assert params["train.zero_stages"] == "{}"


def test_a_long_value_is_cut_to_what_mlflow_takes() -> None:
    params = dict(flat({"train": {"prompts": ["word " * 3000]}}))
    assert len(params["train.prompts"]) == MOST_PARAM_LETTERS
    assert params["train.prompts"].endswith("…")


def test_a_key_that_mlflow_refuses_is_written_another_way() -> None:
    assert dict(flat({"model": {"größe (px)": 1}})) == {"model.gr__e _px_": "1"}
