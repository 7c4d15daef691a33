"""`gen-dist evaluate`: the score of a model on the captions it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gen_dist.job.errors import GenDistError


class EvaluateError(GenDistError):
    """A model that this score does not fit."""


def run(model: str, *, count: int, seed: int, record: bool, tracking_uri: str, as_json: bool) -> dict[str, Any]:
    """Draw, look up, print."""
    from gen_dist.data.source import open_stream
    from gen_dist.evaluate.nearest import score
    from gen_dist.job.load import load_resolved
    from gen_dist.recipes.contract import Field
    from gen_dist.registry.find import REGISTERED, find_model
    from gen_dist.sample.model import Model

    if record and not model.startswith(REGISTERED):
        raise EvaluateError(f"--record: {model} is no registered version; write models:/NAME/VERSION, or leave it out")
    source = find_model(model, tracking_uri=tracking_uri)
    job = load_resolved(source.facts.job)
    drawer = Model.load(source)
    read = drawer.recipe.batch
    if "caption" not in read:
        raise EvaluateError(f"{model}: recipe {job.recipe} reads no captions; evaluate one that draws from text")
    side = drawer.recipe.settings.image_px
    fields = {"image": Field("image", (3, side, side)), "caption": Field("caption"), "label": Field("label")}
    with open_stream(job.data, pattern=job.data.train, fields=fields, seed=job.seed) as stream:
        found, digest = score(drawer, stream, count=count, seed=seed), stream.digest
    if record:
        shares = {f"evaluate/{name}": getattr(found, name) for name in ("category_share", "own_image_share")}
        on = f"{job.data.train}, {found.captions} captions, seed {seed}"
        _keep(model, shares, measured_on=on, data_digest=digest, tracking_uri=tracking_uri)
    if not as_json:
        print(f"{found.captions} captions drawn; nearest of {round(1 / found.own_image_chance)} real images:")
        share, error, chance = found.category_share, found.standard_error, found.category_chance
        print(f"of the caption's category  {share:7.1%} +- {error:.1%}   by chance {chance:.1%}")
        print(
            f"the caption's own image    {found.own_image_share:7.1%}          by chance {found.own_image_chance:.2%}"
        )
    return {"model": model, **found.facts()}


def _keep(model: str, scores: Mapping[str, float], *, measured_on: str, data_digest: str, tracking_uri: str) -> None:
    from gen_dist.cli.models.options import meant, registry
    from gen_dist.registry.scored import keep_scores

    with registry(tracking_uri) as (client, uri):
        registered, version = meant(client, model, uri)
        keep_scores(registered, version, scores, measured_on=measured_on, data_digest=data_digest)
