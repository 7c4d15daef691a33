"""JobSpec: every key that a job file may hold, its type, its default and what it means.

A job is one TOML file. jobs/README.md is written from the docstrings below by `python -m gen_dist.job.document`.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
)

LARGEST_CLUSTER_WORKERS = 65_536


class Spec(BaseModel):
    """Settings of one component: frozen, no unknown keys, documented by the string under each attribute."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "my-run"
        raise ValueError(f"expected lower-case letters, digits and single dashes; write '{slug}'")
    return text


def _url(text: str) -> str:
    scheme, found, rest = text.partition("://")
    if not text.strip():
        raise ValueError("empty; write embedded://emoji, a folder, or s3://bucket/prefix")
    if found and (scheme not in ("s3", "embedded") or not rest.strip("/")):
        raise ValueError("not an address of data; write embedded://emoji, a folder, or s3://bucket/prefix")
    return text


def _url_or_nothing(text: str) -> str:
    return _url(text) if text else text


def _pattern(text: str) -> str:
    if text.startswith("/") or ".." in text.split("/"):
        raise ValueError("expected a pattern of names below data.url; write such as '*.tar' or 'train/*.tar'")
    return text


def _extensions(text: str) -> str:
    if not re.fullmatch(r"\w[\w.]*( \w[\w.]*)*", text):
        raise ValueError("expected file endings without a dot, separated by single blanks; write such as 'png jpg'")
    return text


def _member(text: str) -> str:
    if not re.fullmatch(r"\w[\w.]*(:\w+)?", text):
        raise ValueError("expected a file ending such as 'txt', or 'json:key' for one value of a JSON member")
    return text


def _prompts(prompts: list[str]) -> list[str]:
    for position, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise ValueError(f"prompt {position} of {len(prompts)} is empty; write a caption there or remove it")
    return prompts


def _spike_factor(value: float) -> float:
    if 0 < value <= 1:
        raise ValueError("half of all steps are longer than that; write 0 for no spikes, or such as 10")
    return value


def _num_workers(value: Any) -> int | list[int]:
    counts = value if isinstance(value, list | tuple) else [value]
    whole = all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
    if not whole or len(counts) not in (1, 2) or (len(counts) == 1 and counts is value):
        raise ValueError("expected a count or [min, max]; write such as 2 or [2, 8]")
    if not 1 <= counts[0] <= counts[-1] <= LARGEST_CLUSTER_WORKERS:
        raise ValueError(
            f"expected 1 <= min <= max <= {LARGEST_CLUSTER_WORKERS}; write such as {max(1, min(counts))} or [2, 8]"
        )
    return value if isinstance(value, int) else list(value)


def _folder(text: str) -> str:
    return os.path.abspath(text) if text else text


def _kept_at(text: str) -> str:
    scheme, found, rest = text.partition("://")
    if found and (scheme != "s3" or not rest.strip("/")):
        raise ValueError("not a place to write to; write s3://bucket/prefix, a folder, or nothing")
    return text.rstrip("/") if found else _folder(text)


def _run_folder(text: str) -> str:
    if not text.strip():
        raise ValueError("empty; write such as 'runs', or '.' for the current folder")
    return text


def _model_name(text: str) -> str:
    if re.search(r"[/:@]", text) or text != text.strip() or re.match(r"\.$|\.\.", text):
        plain = re.sub(r"[/:@.\s]+", "-", text).strip("-") or "my-model"
        raise ValueError(f"MLflow takes no / and no :, and an @ stands before an alias; write '{plain}'")
    return text


Folder = Annotated[str, AfterValidator(_folder)]
"""A folder of this machine, written relative to the current one and kept absolute: workers start elsewhere."""
WordRows = Annotated[int, Field(ge=3)]
"""Rows of a hashed table of words: one for padding, one for no words at all, and the rest for words."""
ZeroStage = Annotated[int, Field(ge=0, le=3)]
Extensions = Annotated[str, AfterValidator(_extensions)]
Pattern = Annotated[str, AfterValidator(_pattern)]
Member = Annotated[str, AfterValidator(_member)]


class S3Spec(Spec):
    """How to reach an object store that speaks S3. Keys come from the environment, never from a job file."""

    endpoint_url: str = ""
    """Address of the store, such as `https://storage.example.org`. Empty: the region's AWS endpoint."""
    region: str = ""
    """Region of the bucket. Empty: what the environment says."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Bucket in the path or in the host name. Many stores outside AWS want `path`."""


class MixSpec(Spec):
    """Another source of training samples, with the members and the object store of `data`."""

    url: Annotated[str, AfterValidator(_url)]
    """Where its shards are."""
    train: Pattern = "*.tar"
    """Pattern of the shard names below `url`."""
    derived: Annotated[str, AfterValidator(_url_or_nothing)] = ""
    """Its `data.derived`. All sources have one, or none has."""
    weight: PositiveFloat = 1.0
    """Its share, relative to `data.weight` and the other sources'."""


class DataSpec(Spec):
    """What to learn from: tar shards in the WebDataset layout (one sample = the members that share a name)."""

    url: Annotated[str, AfterValidator(_url)] = Field(examples=["embedded://emoji"])
    """Where the shards are: `embedded://emoji`, a folder (relative to the current one), or `s3://bucket/prefix`."""
    train: Pattern = "*.tar"
    """Pattern of the shard names below `url` to train on; `*` stops at `/`."""
    heldout: Pattern = ""
    """Pattern of the shard names to measure on; never trained on. Empty: none."""
    image: Extensions = "png jpg jpeg webp"
    """Endings of the member that holds the image; the first one that a sample has is taken."""
    caption: Member = "txt"
    """Ending of the member that holds the caption; `json:key` takes one value of a JSON member."""
    label: Member = "json:label"
    """Ending of the member that holds the class, a whole number; `json:key` takes one value of a JSON member."""
    derived: Annotated[str, AfterValidator(_url_or_nothing)] = ""
    """Where `gen-dist data derive` wrote what it computed of the shards of `url`, such as latents. What all samples
    have there is read from there, and the rest from `url`. Empty: none."""
    crop: Literal["centre", "random"] = "centre"
    """Part of an image that fills the recipe's shape: the largest centred box, or one at a random place."""
    min_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `crop = "random"`: smallest side of the box, as a share of the largest possible one."""
    flip: bool = False
    """Mirror every other image left and right, at random. Wrong for letters and for captions that say left or right."""
    aspect_buckets: bool = False
    """Learn tall and wide images at tall and wide sizes of about the recipe's number of pixels, each batch at one size,
    so that less is cut away. Needs the sizes of images, from `gen-dist data index`. The global batch then stays as it
    is to the end of the run, and decoded images are not kept."""
    fast_downscale: bool = True
    """Let the JPEG decoder skip detail of images at least twice as large as wanted. A little softer, several times
    faster."""
    cache_bytes: NonNegativeInt = 256 * 2**20
    """Memory of each worker for decoded images, in bytes. 0: decode every image each time."""
    shuffle_bytes: PositiveInt = 512 * 2**20
    """Memory of each worker for samples as they are stored, in bytes, to shuffle among; it may hold twice that while
    it reads ahead. Data sets below it are shuffled as a whole."""
    decode_threads: PositiveInt = 4
    """Threads of each worker that decode."""
    read_threads: PositiveInt = 8
    """Reads of each worker that are under way at once."""
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.001
    """Share of samples that may turn out unreadable while training (the first 10 are free); above it the run stops.
    An unreadable sample keeps its place with weight 0 and is listed in the run's `bad_samples.jsonl`."""
    index_limit_bytes: NonNegativeInt = 4 * 2**30
    """Shards without an index (`gen-dist data index`) are looked through when a run starts, up to this many bytes in
    all. Beyond them a run streams its shards from front to back, and says what that gives up. 0: always so."""
    disk_cache: Folder = ""
    """Folder of each machine to keep what was read from `s3://`. Empty: none."""
    disk_cache_bytes: PositiveInt = 100 * 2**30
    """Room that `disk_cache` may take, in bytes; what was used longest ago goes first."""
    weight: PositiveFloat = 1.0
    """Share of `url` where `mix` adds other data; weights are relative to each other."""
    mix: list[MixSpec] = []
    """More data to draw from, `[[data.mix]]`, with exact shares in every few thousand images."""
    s3: S3Spec = S3Spec()
    """Only for `s3://` addresses."""


class NonFiniteSpec(Spec):
    """What becomes of a step whose loss or gradient is no number or, with `spike_factor`, far too large. All workers
    find it together, before any weight moves.
    """

    policy: Literal["stop", "skip", "rollback"] = "stop"
    """`stop` the run; `skip` the step, its images are passed over; or go back to an older checkpoint and go on with the
    images after the bad ones."""
    max_skips: PositiveInt = 10
    """Steps skipped in a row, or rollbacks without a new checkpoint between them, after which the run stops all the
    same."""
    rollback_checkpoints: PositiveInt = 1
    """Checkpoints to go back: 1 is the newest one."""
    spike_factor: Annotated[NonNegativeFloat, AfterValidator(_spike_factor)] = 0.0
    """A gradient is a spike when it is longer (L2 norm) than this many times the median of the group's last 64 steps.
    0: there are no spikes."""


class DivergenceSpec(Spec):
    """What becomes of a run that its recipe calls lost, as GigaGAN where the discriminator has won for good. Looked at
    with each log line, from means over all workers; recipes that call nothing lost are left alone.
    """

    policy: Literal["warn", "stop", "rollback"] = "warn"
    """`warn` in the log and go on; `stop` the run; or go back `train.nonfinite.rollback_checkpoints` checkpoints and on
    with the images after these, at most `train.nonfinite.max_skips` times without a new checkpoint between them."""
    patience_images: NonNegativeInt = 20_000
    """Images over which every log line must say so. With `rollback`, fewer than between two checkpoints."""


class TrainSpec(Spec):
    """How to learn. The one clock is images seen: it keeps its meaning when the number of workers changes."""

    total_images: PositiveInt = Field(examples=[100_000])
    """Images to learn from before the run ends; rounded up to whole steps."""
    global_batch_images: PositiveInt = 64
    """Images of one step, over all workers. A multiple of workers x `micro_batch_images`, with a range of workers of
    its smallest number; the rest is made up by accumulating gradients."""
    micro_batch_images: PositiveInt = 32
    """Images that one worker holds at a time. Lower it when memory runs out; accumulation makes up for it."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of forward and backward; weights of the optimizer are fp32 either way."""
    zero_stage: ZeroStage = 1
    """DeepSpeed ZeRO stage, what is split over the workers: 0 nothing, 1 optimizer states, 2 also gradients, 3 also
    weights. One fp32 worker has nobody to split with and runs at 0."""
    zero_stages: dict[str, ZeroStage] = {}
    """Stage of single groups of the recipe, such as `discriminator = 2`; the others have `zero_stage`."""
    zero3_persistence_elements: NonNegativeInt = 100_000
    """At ZeRO stage 3, parameters of fewer elements stay whole on every worker: less traffic for a little memory."""
    clip_norm: NonNegativeFloat = 1.0
    """Longest gradient (L2 norm over a group); longer ones are scaled down to it. 0: never."""
    warmup_images: NonNegativeInt = 0
    """Images over which the learning rate rises from 0. 0: none."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up: stays, or falls to 0 at `total_images` along a half cosine."""
    ema_half_life_images: NonNegativeInt = 10_000
    """Images after which a weight counts half in the moving average that samples are drawn from. 0: no average."""
    log_every_images: PositiveInt = 1_000
    """Images between two lines of losses in the log and the tracker."""
    sample_every_images: NonNegativeInt = 20_000
    """Images between two sample grids; the end of the run draws one too. 0: none."""
    checkpoint_every_images: NonNegativeInt = 20_000
    """Images between two checkpoints; the end of the run writes one too. 0: only at the end."""
    prompts: Annotated[list[str], AfterValidator(_prompts)] = []
    """Captions of the sample grid, for recipes that read captions."""
    nonfinite: NonFiniteSpec = NonFiniteSpec()
    divergence: DivergenceSpec = DivergenceSpec()


class ClusterSpec(Spec):
    """How many workers, and what each of them gets."""

    num_workers: Annotated[int | list[int], PlainValidator(_num_workers)] = 1
    """Worker processes: a count, or `[min, max]` for a run that shrinks and grows with its cluster. It takes the
    largest number in there that there is room for and that splits `train.global_batch_images`; `gen-dist check`
    lists them."""
    use_gpu: bool = False
    """One GPU for each worker."""
    threads_per_worker: PositiveInt = 1
    """CPU threads that torch uses in each worker."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs that Ray sets aside for each worker."""
    address: str = ""
    """Address of a Ray cluster, such as `auto` or `ray://host:10001`. Empty: a local one for the time of the run."""


class RunSpec(Spec):
    """Where a run writes and how often it is picked up again."""

    folder: Annotated[str, AfterValidator(_run_folder)] = "runs"
    """Folder of all runs (relative to the current one); this run writes to `folder/name`."""
    checkpoints: Annotated[str, AfterValidator(_kept_at)] = ""
    """Where checkpoints go: `s3://bucket/prefix` or a folder, below which this run has its name. Every worker must
    reach it. Empty: the folder `checkpoints` of the run folder."""
    s3: S3Spec = S3Spec()
    """Only for `checkpoints` at an `s3://` address."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints to keep."""
    keep_every_images: NonNegativeInt = 0
    """Keep for good the first checkpoint after every so many images too. 0: none."""
    keep_best: NonNegativeInt = 0
    """Keep so many of the best checkpoints by `best_metric` too. 0: none."""
    best_metric: str = ""
    """A held-out score of the recipe, such as `heldout/psnr_db`. Checkpoints written at a sample grid have scores."""
    best_is: Literal["highest", "lowest"] = "highest"
    """Which value of `best_metric` is the best."""
    max_failures: NonNegativeInt = 3
    """Failures of workers in a row, with no new checkpoint between them, after which the run gives up; before that it
    goes on from its newest checkpoint. Lost machines and preemptions do not count."""
    spares: bool = True
    """Keep processes beside the workers that have imported all they need, for a quicker restart (seconds instead of
    half a minute where Python's packages lie on a network's file system). Each takes half a GB for its imports, once a
    group has trained for half a minute."""
    hang_after_s: NonNegativeFloat = 30.0
    """Seconds that a step may take beyond three times the median one before its workers count as hung: the stacks of
    all are saved below `hang` in the run folder, and they start anew. Waiting for data, sample grids and checkpoints
    may take 10 times as long, the start 20 times. 0: never."""
    max_wait_s: PositiveFloat = 1800.0
    """Seconds that a run waits for a cluster that has no room for its workers, or does not start them."""


class TrackingSpec(Spec):
    """Where MLflow records the run and registers the model."""

    uri: str = ""
    """MLflow tracking address. Empty: `sqlite:///` and `mlflow.db` in `run.folder`, no server needed."""
    experiment: str = "gen-dist"
    """MLflow experiment of the run."""
    registered_model: Annotated[str, AfterValidator(_model_name)] = ""
    """Name under which the trained model is registered. Empty: the job's `name`."""


class RegistrySpec(Spec):
    """Where trained models are kept, and what one must show before it becomes champion (`gen-dist models promote`)."""

    store: Annotated[str, AfterValidator(_kept_at)] = ""
    """Where exported models are kept, and the ledger of who is champion: a folder that all who promote can see, or
    `s3://bucket/prefix`. Empty: `run.folder`. The first model of a name decides for those that follow."""
    at_least: dict[str, float] = {}
    """Metrics of the checkpoint and the least they may be, such as `{"heldout/psnr_db" = 18.0}`."""
    at_most: dict[str, float] = {}
    """Metrics of the checkpoint and the most they may be, such as `{"heldout/noise" = 0.2}`."""
    better_than_champion: bool = False
    """Each metric of `at_least` must be higher, and each of `at_most` lower, than the champion's on the same data."""
    sample_grid: bool = False
    """The record must hold a sample grid of the very checkpoint."""
    bit_equal_reload: bool = True
    """The exported model, read back, must hold the checkpoint's weights bit for bit, and draw the same image."""
    s3: S3Spec = S3Spec()
    """Only for `s3://` addresses."""


class JobSpec(Spec):
    """One run: what to train, on what, how long, on how many workers, and where the result goes."""

    name: Annotated[str, AfterValidator(_name)] = Field(examples=["my-run"])
    """Name of the run and of its folder: lower-case letters, digits, dashes. The same name resumes the run."""
    recipe: str = Field(examples=["latent_diffusion"])
    """What to train: a name of `gen_dist/recipes/catalog.py`."""
    seed: NonNegativeInt = 0
    """Start of every random number of the run."""
    data: DataSpec
    model: dict[str, Any] = {}
    """Settings of the recipe: `gen-dist recipes NAME` lists them."""
    train: TrainSpec
    cluster: ClusterSpec = ClusterSpec()
    run: RunSpec = RunSpec()
    tracking: TrackingSpec = TrackingSpec()
    registry: RegistrySpec = RegistrySpec()
