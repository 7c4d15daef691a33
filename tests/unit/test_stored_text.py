"""Stored vectors of captions: a denoiser learns from them what it learns from the captions, and refuses others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gen_dist.data.derived import differing
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Recipe
from gen_dist.recipes.latent_diffusion import TEXT
from gen_dist.sample.model import Model
from tests.support.text_models import write_text_model

SMALL = {"image_px": 16, "autoencoder_channels": [16], "denoiser_channels": [64], "text_tokens": 5}
CAPTIONS = ["red heart", "blue circle", "red", "blue heart"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("clip"), "clip")


def recipe_of(clip: Path, **settings: Any) -> Recipe:
    return catalog.build("latent_diffusion", {**SMALL, "text_encoder": str(clip), **settings})


def model_of(recipe: Recipe) -> Model:
    torch.manual_seed(3)
    nets = recipe.networks().items()
    weights = {f"{name}.{key}": value for name, net in nets for key, value in net.state_dict().items()}
    return Model.from_weights(recipe, weights, device=torch.device("cpu"))


def stored(clip: Path) -> torch.Tensor:
    """What `gen-dist data derive` stores of CAPTIONS."""
    model = model_of(recipe_of(clip, autoencoder_images=1))
    batch = {"image": torch.zeros(4, 3, 16, 16), "caption": CAPTIONS}
    ctx = model.context(seed=0, first=0, count=4)
    ctx.clock = Clock(images=2, step=1)
    assert set(model.recipe.derives(ctx)[0]) == {"image", "caption"}
    return model.recipe.derive(ctx, batch)[TEXT]


def test_the_loss_is_that_of_the_captions_to_half_precision(clip: Path) -> None:
    text = stored(clip)
    assert (text.dtype, tuple(text.shape)) == (torch.float16, (4, 5, 16))
    losses = []
    for source in ("captions", "derived"):
        model = model_of(recipe_of(clip, text=source, caption_dropout=0.5))
        batch = {"image": torch.zeros(4, 3, 16, 16), "caption": CAPTIONS, "weight": torch.ones(4)}
        if source == "derived":
            assert tuple(model.recipe.batch["text"].shape) == (5, 16)
            batch |= {"text": text, "caption": ["not read"] * 4}
        ctx = model.context(seed=1, first=0, count=4)
        losses.append(model.recipe._denoiser_loss(ctx, batch)["velocity"])
    assert torch.allclose(losses[0], losses[1], rtol=1e-3)


def test_another_encoder_tokenizer_or_length_is_refused(clip: Path, tmp_path: Path) -> None:
    own = recipe_of(clip, text="derived").made_with()
    assert set(own) == {TEXT}
    assert differing(own, recipe_of(clip, text="derived").made_with()) == ""
    assert "tokens is 5, and the run wants 4" in differing(
        own, recipe_of(clip, text="derived", text_tokens=4).made_with()
    )
    other = write_text_model(tmp_path / "t5", "t5")
    assert ".text.npy: encoder is" in differing(own, recipe_of(other, text="derived").made_with())


def test_stored_text_without_an_encoder_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match="text='derived' without a text_encoder; write text_encoder"):
        catalog.build("latent_diffusion", {"text": "derived"})
