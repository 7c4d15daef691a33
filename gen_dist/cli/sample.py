"""`gen-dist sample`: images from a model, written as one PNG."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gen_dist.cli.picture import check_out, write_out
from gen_dist.job.errors import GenDistError


class DeviceError(GenDistError):
    """A device that is not there."""


def run(
    model: str,
    prompts: Sequence[str],
    *,
    upsampler: str,
    seed: int,
    out: str,
    tracking_uri: str,
    device: str,
    as_json: bool,
    fine: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Draw and write; a single prompt gives the bare image, several a grid with captions. `fine`: as `Model.draw`."""
    path = Path(out)
    check_out(path, such_as="sample.png")

    def warn(text: str) -> None:
        print(f"warning    {text}", file=sys.stderr)

    from gen_dist.registry.find import find_model

    where = _device(device)
    sources = [find_model(name, tracking_uri=tracking_uri, passed_over=warn) for name in (model, upsampler) if name]
    from gen_dist.sample.chain import Chain
    from gen_dist.sample.grid import png, sample_grid
    from gen_dist.sample.model import Model

    drawers = [Model.load(source, device=where) for source in sources]
    images = (Chain(*drawers) if upsampler else drawers[0]).draw(prompts, seed=seed, fine=fine)
    write_out(path, png(images[0] if len(prompts) == 1 else sample_grid(images, prompts)))
    if not as_json:
        print(f"{path}: {len(prompts)} image(s), seed {seed}", file=sys.stdout)
    return {"out": str(path), "prompts": list(prompts), "seed": seed, "model": sources[0].place} | (
        {"upsampler": sources[1].place} if upsampler else {}
    )


def _device(name: str) -> str:
    """The device of that name, by default the best that is there. Raises: DeviceError."""
    import torch

    there = [*(f"cuda:{number}" for number in range(torch.cuda.device_count())), "cpu"]
    where = name or there[0]
    try:
        torch.zeros(1, device=where).item()
    except (RuntimeError, AssertionError):  # torch's words for it take several lines
        raise DeviceError(f"--device {where}: not on this machine; write {' or '.join(there)}") from None
    return where
