"""GigaGAN at the paper's widths learns: every phase of the cluster's jobs, forward and backward, on this machine.

Without an optimizer, whose moments would not fit beside it. The text encoder and CLIP have their sizes and no training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gen_dist.job.load import load_job
from gen_dist.recipes import catalog
from gen_dist.recipes.contract import Clock, Ctx
from gen_dist.recipes.randomness import Draw
from tests.support.cli import ROOT
from tests.support.text_models import write_clip

CAPTIONS = ["red", "blue"]
SIZES = {"base-64": (64, 1.04e9), "upsampler-256": (256, 0.59e9)}
"""Job -> pixels, trained parameters. Some minutes each; at 512 px, which has one level more, it would be hours."""


def learn(recipe: Any, nets: dict[str, nn.Module], side_px: int) -> dict[str, float]:
    """Every phase of a step with a penalty; the losses by phase/name. Gradients are added up."""
    frozen = {name: net.eval().requires_grad_(False) for name, net in recipe.frozen().items()}
    images = torch.rand(len(CAPTIONS), 3, side_px, side_px) * 2 - 1
    batch = {"image": images, "caption": CAPTIONS, "weight": torch.ones(len(CAPTIONS))}
    clock, losses = Clock(images=0, step=0), {}
    groups = recipe.groups()
    for number, phase in enumerate(recipe.phases(clock)):
        for name, net in nets.items():
            net.requires_grad_(name in groups[phase.group].nets)
        draw = Draw(seed=0, first=0, count=len(CAPTIONS), turn=number * 65_536)
        ctx = Ctx(nets=nets, frozen=frozen, clock=clock, draw=draw, device=torch.device("cpu"))
        found = phase.loss(ctx, batch)
        torch.stack(list(found.values())).sum().backward()
        losses |= {f"{phase.name}/{name}": float(value) for name, value in found.items()}
    return losses


@pytest.mark.long
@pytest.mark.parametrize("name", SIZES)
def test_every_phase_learns_at_the_papers_widths(name: str, tmp_path: Path) -> None:
    side_px, parameters = SIZES[name]
    clip = write_clip(tmp_path, weights=True)
    keys = {"text_encoder": clip["clip-vit-l-14-text"], "clip": clip["clip-vit-b-32"]}
    keys |= {"vision": clip["clip-vit-b-32"]} if name == "base-64" else {"lpips": ""}
    words = [f"model.{key}={value}" for key, value in keys.items()]
    job = load_job(ROOT / "jobs" / "gigagan" / f"{name}.toml", words, looks_at_data=False)
    torch.manual_seed(0)
    recipe = catalog.build(job.recipe, job.model)
    nets = recipe.networks()
    assert sum(p.numel() for net in nets.values() for p in net.parameters()) == pytest.approx(parameters, rel=0.01)
    losses = learn(recipe, nets, side_px)
    assert {phase.partition("/")[0] for phase in losses} == {phase.name for phase in recipe.phases(Clock(0, 0))}
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values()), losses
    unreached = [
        f"{net}.{key}" for net, made in nets.items() for key, value in made.named_parameters() if value.grad is None
    ]
    assert not unreached, unreached[:5]
    assert all(torch.isfinite(value.grad).all() for made in nets.values() for value in made.parameters())
