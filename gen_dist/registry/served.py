"""What MLflow runs when a registered model is loaded: a table of prompts in, a table of PNG images out.

An upsampler wants the images that it enlarges too, as PNGs in a column `image`: those that its base model gave.

MLflow keeps a copy of this file in the model and runs that, beside a copy of the few modules that drawing needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

PROMPT, IMAGE = "prompt", "image"


class Drawer(PythonModel):
    """Draws on the GPU where there is one."""

    def load_context(self, context: Any) -> None:
        """Read the weights: safetensors and JSON, nothing is unpickled."""
        import torch

        from gen_dist.sample.model import Model

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = Model.load(Path(context.artifacts["model"]), device=device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """PNG bytes for each row's `prompt`. The image of a row depends on its prompt, its number and `seed`."""
        from gen_dist.sample.grid import png

        prompts, side = prompts_of(model_input), self._model.recipe.enlarges_px
        seed = int((params or {}).get("seed", 0))
        images = images_of(model_input, side_px=side) if side and prompts else None
        drawn = [png(image) for image in self._model.draw(prompts, seed=seed, images=images)] if prompts else []
        index = model_input.index if isinstance(model_input, pd.DataFrame | pd.Series) else None
        return pd.DataFrame({"png": drawn}, index=index, dtype=object)


def prompts_of(model_input: Any) -> list[str]:
    """From a table with a column `prompt`, or of one column; a column; or a list of texts."""
    if isinstance(model_input, pd.DataFrame):
        if PROMPT not in model_input.columns and (len(model_input.columns) != 1 or IMAGE in model_input.columns):
            seen = ", ".join(map(str, model_input.columns)) or "no column"
            raise ValueError(f"the table holds {seen}; give it one text column named '{PROMPT}'")
        model_input = model_input[PROMPT if PROMPT in model_input.columns else model_input.columns[0]]
    return [str(prompt) for prompt in ([model_input] if isinstance(model_input, str) else model_input)]


def images_of(model_input: Any, *, side_px: int) -> np.ndarray:
    """(N, side, side, 3) uint8 of what an upsampler enlarges."""
    from gen_dist.sample.grid import read_png

    wanted = f"this model enlarges images: give it, beside '{PROMPT}', a column '{IMAGE}' of PNGs as bytes"
    wanted = f"{wanted}, {side_px} x {side_px} px, such as a base model of {side_px} px draws"
    if not isinstance(model_input, pd.DataFrame) or IMAGE not in model_input.columns:
        seen = ", ".join(map(str, model_input.columns)) if isinstance(model_input, pd.DataFrame) else "prompts alone"
        raise ValueError(f"the input holds {seen or 'no column'}; {wanted}")
    found = []
    for row, data in model_input[IMAGE].items():
        try:
            image = read_png(bytes(data))
        except (OSError, TypeError) as error:
            raise ValueError(f"row {row}: '{IMAGE}' is no PNG ({error}); {wanted}") from None
        if image.shape[:2] != (side_px, side_px):
            raise ValueError(f"row {row}: '{IMAGE}' is of {image.shape[1]} x {image.shape[0]} px; {wanted}")
        found.append(image)
    return np.stack(found)


mlflow.models.set_model(Drawer())
