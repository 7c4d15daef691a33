"""gigagan-compiled: time of a phase of the size `tiny` as it runs, over that of the same phase with `torch.compile`.

Where it is below 1 there is nothing to compile for. 32 px, 8 images, fp32, one thread; both use the same weights, in
turns. `compile_s` is processor time until the first compiled call is done. R1 has no compiled side: what AOT autograd
compiles has no double backward, for which `refused` is 1.
"""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor, nn

from gen_dist.nets.gigagan import losses
from gen_dist.nets.gigagan.discriminator import Discriminator
from gen_dist.nets.gigagan.sizes import SIZES, Size
from gen_dist.nets.gigagan.synthesis import Synthesis
from tests.speed.sides import Result, alternate, compare

IMAGE_PX, BATCH_IMAGES, TOKENS = 32, 8, 9
NUM_STEPS, NUM_ROUNDS = 3, 3
PHASES = ("draw", "generator", "penalty")


@dataclass(frozen=True)
class Game:
    """Both networks of a size, a batch for them, and what a phase does with either way of calling them."""

    size: Size
    image_px: int
    batch_images: int
    generator: nn.Module
    discriminator: nn.Module
    style: Tensor
    """(B, style_width)"""
    words: Tensor
    """(B, T, text_width)"""
    caption: Tensor
    """(B, 1, text_width)"""

    @classmethod
    def of(cls, size: Size, *, image_px: int, batch_images: int) -> Game:
        """With random weights and inputs, the same each time."""
        torch.manual_seed(0)
        return cls(
            size,
            image_px,
            batch_images,
            Synthesis(size, image_px=image_px),
            Discriminator(size, image_px=image_px),
            torch.randn(batch_images, size.style_width),
            torch.randn(batch_images, TOKENS, size.text_width),
            torch.randn(batch_images, 1, size.text_width),
        )

    def phase(self, name: str, generator: Callable[..., list[Tensor]], discriminator: Callable[..., Tensor]) -> None:
        """Forward and, but for `draw`, backward."""
        present = torch.ones(self.words.shape[:2], dtype=torch.bool)
        with torch.set_grad_enabled(name == "generator"):
            images = generator(self.style, self.words, present)
        if name == "draw":
            return
        if name == "generator":
            losses.taken_for_fake(discriminator(images, self.caption)).mean().backward()
        else:
            leaves = [image.clone().requires_grad_() for image in images]
            logits = discriminator(leaves, self.caption).sum()
            slopes = torch.autograd.grad(logits, leaves, create_graph=True)
            sum((slope.square().sum() for slope in slopes), torch.zeros(())).backward()
        self.generator.zero_grad()
        self.discriminator.zero_grad()


def run(*, only: str, tiny: bool) -> Result:
    """Measure the phases whose name begins with `only`; the ratio is that of the phase with the most to gain."""
    names = [name for name in PHASES if name.startswith(only)]
    if not names:
        raise ValueError(f"--only {only}: no such phase; write the start of one of {', '.join(PHASES)}")
    torch.set_num_threads(1)
    if tiny:
        game = Game.of(SIZES["nano"], image_px=8, batch_images=4)
    else:
        game = Game.of(SIZES["tiny"], image_px=IMAGE_PX, batch_images=BATCH_IMAGES)
    backend = "aot_eager" if tiny else "inductor"
    found = {name: _measure(game, name, backend=backend, num_rounds=1 if tiny else NUM_ROUNDS) for name in names}
    worst = max(found.values(), key=lambda figures: figures.get("ratio", 0.0))
    shown = (worst.get("ratio", 0.0), worst.get("ours_ms_per_image", 0.0), worst.get("theirs_ms_per_image", 0.0))
    return Result(*shown, unit="ms_per_image", cases=found)


def _measure(game: Game, name: str, *, backend: str, num_rounds: int) -> dict[str, float]:
    generator, discriminator = (
        torch.compile(net, dynamic=False, backend=backend) for net in (game.generator, game.discriminator)
    )
    started_s = _spent_s()
    try:
        with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, _afresh(empty)):
            game.phase(name, generator, discriminator)
    except RuntimeError as error:
        if "create_graph" not in str(error) and "double backward" not in str(error):
            raise
        return {"refused": 1.0}
    compile_s = _spent_s() - started_s
    rounds = alternate(
        lambda: game.phase(name, game.generator, game.discriminator),
        lambda: game.phase(name, generator, discriminator),
        num_steps=NUM_STEPS,
        num_rounds=num_rounds,
    )
    return {**compare(rounds, images=NUM_STEPS * game.batch_images), "compile_s": compile_s}


def _afresh(cache: str) -> dict[str, str]:
    """The environment in which nothing is compiled yet, and by children that end."""
    return {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}


def _spent_s() -> float:
    """Of this process and of the compilers that it called."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(spent.ru_utime + spent.ru_stime for spent in both)
