"""Which optimizer updates which networks of GigaGAN, and how: a function of its settings."""

from __future__ import annotations

from typing import Any

from gen_dist.recipes.contract import Group

BETAS = (0.0, 0.99)


def groups_of(settings: Any, *, is_penalised: bool) -> dict[str, Group]:
    """A penalty every k steps makes k + 1 steps of k: see DCGAN for the discriminator's rate and betas."""
    s = settings
    c = s.r1_every_steps / (s.r1_every_steps + 1) if is_penalised else 1.0
    decays: dict[str, Any] = {
        "weight_decay": s.weight_decay,
        "weight_decays": {"attention": s.attention_weight_decay},
    }
    found = {
        "generator": Group(("text", "mapping", "synthesis"), s.generator_learning_rate, betas=BETAS, **decays),
        "discriminator": Group(
            ("discriminator_text", "discriminator"),
            s.discriminator_learning_rate * c,
            betas=(BETAS[0], BETAS[1] ** c),
            average=False,
            **decays,
        ),
    }
    if s.vision:
        rate = s.discriminator_learning_rate
        found["vision"] = Group(("vision_heads",), rate, betas=BETAS, average=False, **decays)
    return found
