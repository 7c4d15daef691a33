"""An upsampler in MLflow: what its base model gave comes in as a column of PNGs, and its own drawings go out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from gen_dist.registry.publish import save
from gen_dist.sample.chain import Chain
from gen_dist.sample.grid import png, read_png
from gen_dist.sample.model import Model
from gen_dist.sample.trained import Trained
from tests.support.models import write_model

PROMPTS = ["red heart", "a cat"]
SMALL = {"size": "nano", "text_tokens": 6, "text_buckets": 256}


def trained(folder: Path, recipe: str, **settings: Any) -> Trained:
    job = {"name": "small", "recipe": recipe, "model": {**SMALL, **settings}, "tracking": {"uri": ""}}
    return Trained(write_model(folder / recipe, job, images=64))


@pytest.fixture(scope="module")
def upsampler(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("runs"), "gigagan_upsampler", image_px=16, low_px=8)


@pytest.fixture(scope="module")
def served(upsampler: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder, path = tmp_path_factory.mktemp("served"), list(sys.path)
    save(upsampler, folder / "served", prompts=PROMPTS, tmp=folder)
    yield mlflow.pyfunc.load_model(str(folder / "served"))
    sys.path[:] = path  # MLflow puts the model's code there


def table(images: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"prompt": PROMPTS, "image": [png(image) for image in images]}, index=[7, 8])


def test_mlflow_chains_a_base_model_and_an_upsampler_as_the_command_does(
    served: Any, upsampler: Trained, tmp_path: Path
) -> None:
    base = Model.load(trained(tmp_path, "gigagan", image_px=8))
    drawn = served.predict(table(base.draw(PROMPTS, seed=3)), params={"seed": ~3})
    assert list(drawn.index) == [7, 8]
    found = np.stack([read_png(data) for data in drawn["png"]])
    np.testing.assert_array_equal(found, Chain(base, Model.load(upsampler)).draw(PROMPTS, seed=3))
    assert len(served.predict(table(base.draw(PROMPTS))[:0])) == 0


def test_its_signature_and_its_example_say_what_to_give(served: Any) -> None:
    columns = {column.name: column.type.name for column in served.metadata.signature.inputs}
    assert columns == {"prompt": "string", "image": "binary"}
    example = served.input_example
    assert [read_png(data).shape for data in example["image"]] == [(8, 8, 3)] * len(PROMPTS)
    assert len(served.predict(example)) == len(PROMPTS)


def test_images_that_it_cannot_enlarge_say_what_to_give(served: Any) -> None:
    wanted = r"beside 'prompt', a column 'image' of PNGs as bytes, 8 x 8 px, such as a base model of 8 px draws"
    drawer = served.unwrap_python_model()
    with pytest.raises(MlflowException, match="image"):
        served.predict(pd.DataFrame({"prompt": PROMPTS}))
    for given, seen in (
        (PROMPTS, "the input holds prompts alone"),
        (pd.DataFrame({"prompt": PROMPTS}), "the input holds prompt;"),
        (table(np.zeros((2, 16, 4, 3), dtype=np.uint8)), "row 7: 'image' is of 4 x 16 px"),
        (pd.DataFrame({"prompt": ["red heart"], "image": [b"GIF"]}), "row 0: 'image' is no PNG"),
        (pd.DataFrame({"prompt": ["red heart"], "image": [None]}), "row 0: 'image' is no PNG"),
    ):
        with pytest.raises(ValueError, match=f"{seen}.*{wanted}"):
            drawer.predict(None, given)
    with pytest.raises(ValueError, match="the table holds image; give it one text column named 'prompt'"):
        drawer.predict(None, table(np.zeros((2, 8, 8, 3), dtype=np.uint8))[["image"]])
