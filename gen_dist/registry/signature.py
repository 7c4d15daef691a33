"""What a registered model takes and gives where MLflow runs it: its columns, and a table as an example."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

from gen_dist.job.settings import settings_of
from gen_dist.sample.grid import png

GREY = 128


def signature_of(job: Mapping[str, Any]) -> ModelSignature:
    """A column `prompt`, for an upsampler also `image` with a PNG of its side; out comes `png`."""
    images = [ColSpec("binary", "image")] if _enlarged_px(job) else []
    return ModelSignature(
        inputs=Schema([ColSpec("string", "prompt"), *images]),
        outputs=Schema([ColSpec("binary", "png")]),
        params=ParamSchema([ParamSpec("seed", "long", 0)]),
    )


def example_of(job: Mapping[str, Any], prompts: Sequence[str]) -> pd.DataFrame:
    """A row for each prompt; an upsampler enlarges grey."""
    side, rows = _enlarged_px(job), list(prompts) or [""]
    grey = {"image": [png(np.full((side, side, 3), GREY, dtype=np.uint8))] * len(rows)} if side else {}
    return pd.DataFrame({"prompt": rows, **grey})


def _enlarged_px(job: Mapping[str, Any]) -> int:
    """Side of the images that it enlarges; 0 for a model that needs none."""
    return int(getattr(settings_of(job["recipe"])(**job["model"]), "enlarges_px", 0))
