"""Widths of networks: what cannot be built says what to write, and the narrowest still know what time it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from gen_dist.recipes import catalog, ddpm, latent_diffusion

NARROWEST = [
    ("ddpm", {"image_px": 8, "channels": [8, 8]}, (3, 8, 8), {}),
    (
        "latent_diffusion",
        {"denoiser_channels": [32, 32], "text_width": 8},
        (4, 8, 8),
        {"encoder_hidden_states": torch.zeros(1, 4, 8), "class_labels": torch.zeros(1, 8)},
    ),
]


@pytest.mark.parametrize(("recipe", "settings", "shape", "more"), NARROWEST, ids=["ddpm", "latent_diffusion"])
def test_the_narrowest_denoiser_does_not_forget_time(
    recipe: str, settings: dict[str, Any], shape: tuple[int, ...], more: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    net = catalog.build(recipe, settings).networks()["denoiser"]
    x = torch.randn(1, *shape)
    with torch.no_grad():
        early, late = (net(x, torch.tensor([time]), **more, return_dict=False)[0] for time in (10.0, 900.0))
    # normalised alone, a channel loses what is added to all of it: the two then differ by rounding
    assert (early - late).abs().max() > 1e-3 * early.abs().max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": (12, 39)}, r"multiple of 8; write \[16, 40\]"),
        ({"channels": (12,)}, r"two widths or more, .* write \[16, 32\]"),
        ({"channels": ()}, r"two widths or more, .* write \[32, 64\]"),
        ({"image_px": 33}, "image_px=33 is not a multiple of 4 .* write image_px = 32"),
        ({"timesteps": 10}, "sample_steps=50 is more than timesteps=10; write sample_steps = 10"),
    ],
    ids=str,
)
def test_a_setting_of_ddpm_that_cannot_be_says_what_to_write(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ddpm.Settings(**settings)


def test_a_width_of_latent_diffusion_that_cannot_be_says_what_to_write() -> None:
    with pytest.raises(ValidationError, match=r"multiple of 32; write \[32, 96\]"):
        latent_diffusion.Settings(denoiser_channels=(16, 90))
