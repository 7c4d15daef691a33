"""`gen-dist evaluate`: the score of a model on the captions it was trained on."""

from __future__ import annotations

from typing import Any

from gen_dist.job.errors import GenDistError


class EvaluateError(GenDistError):
    """A model that this score does not fit."""


def run(model: str, *, count: int, seed: int, tracking_uri: str, as_json: bool) -> dict[str, Any]:
    """Draw, look up, print."""
    from gen_dist.data.source import open_stream
    from gen_dist.evaluate.nearest import score
    from gen_dist.job.load import load_resolved
    from gen_dist.recipes.contract import Field
    from gen_dist.registry.find import find_model
    from gen_dist.sample.model import Model

    source = find_model(model, tracking_uri=tracking_uri)
    job = load_resolved(source.facts.job)
    drawer = Model.load(source)
    read = drawer.recipe.batch
    if "caption" not in read:
        raise EvaluateError(f"{model}: recipe {job.recipe} reads no captions; evaluate one that draws from text")
    side = drawer.recipe.settings.image_px
    fields = {"image": Field("image", (3, side, side)), "caption": Field("caption"), "label": Field("label")}
    with open_stream(job.data, pattern=job.data.train, fields=fields, seed=job.seed) as stream:
        found = score(drawer, stream, count=count, seed=seed)
    if not as_json:
        print(f"{found.captions} captions drawn; nearest of {round(1 / found.own_image_chance)} real images:")
        share, error, chance = found.category_share, found.standard_error, found.category_chance
        print(f"of the caption's category  {share:7.1%} +- {error:.1%}   by chance {chance:.1%}")
        print(
            f"the caption's own image    {found.own_image_share:7.1%}          by chance {found.own_image_chance:.2%}"
        )
    return {"model": model, **found.facts()}
