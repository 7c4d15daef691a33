"""`gen-dist evaluate`: how good a model draws what captions say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gen_dist.job.errors import GenDistError

if TYPE_CHECKING:
    from torch import Tensor

    from gen_dist.job.spec import DataSpec, JobSpec
    from gen_dist.sample.model import Model

READER_IMAGES, READER_STEPS = 20_000, 1_500


class EvaluateError(GenDistError):
    """A model or data that this score does not fit."""


def run(model: str, *, count: int, seed: int, record: bool, tracking_uri: str, as_json: bool) -> dict[str, Any]:
    """The category of the nearest real image, for captions that were trained on: draw, look up, print."""
    from gen_dist.data.source import open_stream
    from gen_dist.evaluate.nearest import score
    from gen_dist.recipes.contract import Field

    drawer, job = _load(model, record=record, tracking_uri=tracking_uri)
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


def run_attributes(
    model: str,
    attributes: str,
    *,
    data: str,
    count: int,
    seed: int,
    record: bool,
    tracking_uri: str,
    as_json: bool,
) -> dict[str, Any]:
    """What held-out captions say of each attribute: teach a reader, draw, read, print.

    `data` is where images and captions belong together; by default where the model learned.
    """
    from gen_dist.evaluate.attributes import learn, score_attributes

    drawer, job = _load(model, record=record, tracking_uri=tracking_uri)
    if not job.data.heldout:
        raise EvaluateError(f"{model}: its job names no data.heldout, which drawings are measured on; train with one")
    spec = job.data.model_copy(update={"url": data, "derived": "", "mix": []} if data else {"derived": "", "mix": []})
    names = [name.strip() for name in attributes.split(",") if name.strip()]
    real = _labelled(spec, spec.train, names, side=drawer.recipe.settings.image_px, most=READER_IMAGES)
    heldout = _labelled(spec, spec.heldout, names, side=drawer.recipe.settings.image_px, most=count)
    reader = learn(real.images, real.labels, num_steps=READER_STEPS)
    scores = score_attributes(
        lambda captions: drawer.draw(captions, seed=seed),
        reader,
        heldout.captions,
        heldout.labels,
        real_N3HW=heldout.images,
    )
    drawn = len(heldout.captions)
    if record:
        shares = {f"evaluate/{name}": score.share for name, score in scores.items()}
        on = f"{spec.heldout}, {drawn} captions, seed {seed}"
        _keep(model, shares, measured_on=on, data_digest=heldout.digest, tracking_uri=tracking_uri)
    if not as_json:
        print(f"{drawn} held-out captions drawn; read as the caption says:")
        for name, score in scores.items():
            share = f"{score.share:7.1%} +- {score.standard_error:.1%}"
            print(f"{name:<14} {share}   by chance {score.chance:.1%}   of real images {score.reader_share:.1%}")
    return {"model": model, "captions": drawn, "attributes": {name: score.facts() for name, score in scores.items()}}


@dataclass(frozen=True)
class Labelled:
    """Real images with what their captions say."""

    images: Tensor
    """(N, 3, H, W) uint8."""
    captions: Sequence[str]
    labels: Mapping[str, Tensor]
    """By attribute (N,) int64."""
    digest: str


def _labelled(spec: DataSpec, pattern: str, names: Sequence[str], *, side: int, most: int) -> Labelled:
    """The first `most` samples in the order of the stream, which is the same for each attribute."""
    import torch

    from gen_dist.data.source import open_stream
    from gen_dist.recipes.contract import Field

    pictures = {"image": Field("image", (3, side, side)), "caption": Field("caption")}
    with open_stream(spec, pattern=pattern, fields=pictures, seed=0) as stream:
        batch, digest = stream.batch(0, min(most, stream.num_samples)), stream.digest
    labels = {}
    for name in names:
        of_name = spec.model_copy(update={"label": f"json:{name}"})
        with open_stream(of_name, pattern=pattern, fields={"label": Field("label")}, seed=0) as stream:
            labels[name] = torch.as_tensor(stream.batch(0, len(batch["caption"]))["label"])
    return Labelled(torch.as_tensor(batch["image"]), list(batch["caption"]), labels, digest)


def _load(model: str, *, record: bool, tracking_uri: str) -> tuple[Model, JobSpec]:
    """A model that draws from captions, and the job that made it. Raises: EvaluateError."""
    from gen_dist.job.load import load_resolved
    from gen_dist.registry.find import REGISTERED, find_model
    from gen_dist.sample.model import Model

    if record and not model.startswith(REGISTERED):
        raise EvaluateError(f"--record: {model} is no registered version; write models:/NAME/VERSION, or leave it out")
    source = find_model(model, tracking_uri=tracking_uri)
    job = load_resolved(source.facts.job)
    drawer = Model.load(source)
    if "caption" not in drawer.recipe.batch:
        raise EvaluateError(f"{model}: recipe {job.recipe} reads no captions; evaluate one that draws from text")
    return drawer, job


def _keep(model: str, scores: Mapping[str, float], *, measured_on: str, data_digest: str, tracking_uri: str) -> None:
    from gen_dist.cli.models.options import meant, registry
    from gen_dist.registry.scored import keep_scores

    with registry(tracking_uri) as (client, uri):
        registered, version = meant(client, model, uri)
        keep_scores(registered, version, scores, measured_on=measured_on, data_digest=data_digest)
