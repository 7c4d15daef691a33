"""`gen-dist sample`: images from a model, written as one PNG."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gen_dist.job.errors import GenDistError


class OutputError(GenDistError):
    """A file that cannot be written."""


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
    if not path.parent.is_dir():
        raise OutputError(f"-o {out}: there is no folder {path.parent}; make it, or write elsewhere")
    from gen_dist.registry.find import find_model

    def warn(text: str) -> None:
        print(f"warning    {text}", file=sys.stderr)

    sources = [find_model(name, tracking_uri=tracking_uri, passed_over=warn) for name in (model, upsampler) if name]
    import torch

    from gen_dist.sample.chain import Chain
    from gen_dist.sample.grid import png, sample_grid
    from gen_dist.sample.model import Model

    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    drawers = [Model.load(source, device=where) for source in sources]
    images = (Chain(*drawers) if upsampler else drawers[0]).draw(prompts, seed=seed, fine=fine)
    path.write_bytes(png(images[0] if len(prompts) == 1 else sample_grid(images, prompts)))
    if not as_json:
        print(f"{path}: {len(prompts)} image(s), seed {seed}", file=sys.stdout)
    return {"out": str(path), "prompts": list(prompts), "seed": seed, "model": sources[0].place} | (
        {"upsampler": sources[1].place} if upsampler else {}
    )
