"""gen-dist: one verb for each step of the flow. What a verb needs is imported when it runs, so that help is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from gen_dist import __version__
from gen_dist.cli.data import app as data_app
from gen_dist.cli.doctor import doctor
from gen_dist.cli.json_report import print_report
from gen_dist.cli.models import app as models_app
from gen_dist.cli.plan import plan
from gen_dist.cli.submit import listed, logs, resume, stop, submit
from gen_dist.collector import collect_rarely
from gen_dist.registry.secrets import without_secrets

app = typer.Typer(
    name="gen-dist",
    add_completion=False,
    rich_markup_mode=None,  # rich costs as much as everything else that help imports
    pretty_exceptions_enable=False,
)
app.add_typer(data_app)
app.add_typer(models_app)

JobFile = Annotated[str, typer.Argument(metavar="JOB", help="Job file, such as jobs/quickstart.toml.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as train.total_images=1000. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, errors included.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gen-dist {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Distributed training of generative image models: one TOML file is one run."""


@app.command()
def check(job: JobFile, overrides: Overrides = [], as_json: Json = False) -> None:  # noqa: B006
    """Check a job and print what follows from it.

    Prints every key with its value, defaults included, then the derived numbers. Starts nothing.
    """
    from gen_dist.job.load import load_job
    from gen_dist.job.report import report, text

    spec = load_job(job, overrides)
    if as_json:
        print_report(without_secrets(report(spec, file=job)))
    else:
        print(without_secrets(text(spec, file=job)))


@app.command()
def recipes(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Show the [model] keys of this one.")] = "",
) -> None:
    """List the recipes, or the [model] keys of one."""
    from gen_dist.job.document import recipe_document
    from gen_dist.job.errors import JobError
    from gen_dist.job.problem import choose
    from gen_dist.job.settings import recipe_names

    known = recipe_names()
    if name and name not in known:
        raise JobError([f"gen-dist recipes {name}: unknown recipe; {choose(name, known)}"])
    print(recipe_document(name) if name else "\n".join(known))


@app.command()
def train(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over: checkpoints of the run count no more.")] = False,
    as_json: Json = False,
) -> None:
    """Train a job to its end; the same command again resumes it.

    Ctrl-C saves a checkpoint and ends. The model is logged and registered when the job is done.
    """
    from gen_dist.cli.program import typed
    from gen_dist.cli.train import run
    from gen_dist.job.load import load_job

    again = typed("gen-dist", ["train", job, *(word for override in overrides for word in ("--set", override))])
    # that of a submitted job is for the laptop that it came from
    again = os.environ.get("GENDIST_RESUME", str(without_secrets(again)))
    facts = run(load_job(job, overrides, looks_at_models=True), command=again, as_json=as_json, fresh=fresh)
    if as_json:
        print_report(facts)
    if facts["signal"]:
        raise typer.Exit(128 + facts["signal"])  # as a shell does: a scheduler must not take it for done


@app.command()
def sample(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Run folder, checkpoint folder, or models:/name@latest.")
    ],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One image for each.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same image.")] = 0,
    out: Annotated[str, typer.Option("-o", "--out", help="PNG to write; several prompts make a grid.")] = "sample.png",
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Images for each prompt.")] = 1,
    upsampler: Annotated[
        str, typer.Option(metavar="MODEL", help="Named as MODEL: enlarges what it draws (recipe gigagan_upsampler).")
    ] = "",
    fine_prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="Prompt of the fine levels of all images (GigaGAN).")
    ] = "",
    fine_from_px: Annotated[int, typer.Option(metavar="N", help="Side of the first of them.")] = 0,
    tracking_uri: Annotated[str, typer.Option(help="MLflow address for models:/ names.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...; by default what is there.")] = "",
    as_json: Json = False,
) -> None:
    """Draw images from a trained model."""
    from gen_dist.cli.sample import run

    fine = (fine_prompt, fine_from_px) if fine_prompt or fine_from_px else None
    where = {"out": out, "tracking_uri": tracking_uri, "device": device}
    facts = run(model, prompts * count, upsampler=upsampler, seed=seed, fine=fine, as_json=as_json, **where)
    if as_json:
        print_report(facts)


@app.command()
def checkpoints(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder, or the s3://bucket/prefix of checkpoints.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte and hold it against its checksum.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what need not be kept.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --prune: only tell what would go.")] = False,
    keep: Annotated[int, typer.Option(min=0, help="With --prune: newest ones to keep; 0: as the job says.")] = 0,
    export: Annotated[
        str, typer.Option("--export", metavar="FOLDER", help="Write the newest one's model.safetensors there.")
    ] = "",
    as_json: Json = False,
) -> None:
    """List the checkpoints of a run, check them, export the newest, or remove those that need not be kept.

    What a registered model pins stays. Nothing is removed while one that would stay is damaged. Exit code
    1: --verify found damage.
    """
    from gen_dist.cli.checkpoints import run as look

    facts = look(run, verify=verify, prune=prune, dry_run=dry_run, keep=keep, export=export, as_json=as_json)
    if as_json:
        print_report(facts)
    if facts["damaged"]:
        raise typer.Exit(1)


@app.command("import-deepspeed")
def import_deepspeed(
    job: JobFile,
    groups: Annotated[
        list[str], typer.Option("--group", metavar="NAME=FOLDER", help="Checkpoint of one group's engine; repeatable.")
    ],
    images: Annotated[int, typer.Option(min=1, help="Images that the model has learned from.")],
    overrides: Overrides = [],  # noqa: B006
    trust: Annotated[bool, typer.Option("--trust", help="I know who wrote it: its pickles may run any code.")] = False,
    as_json: Json = False,
) -> None:
    """Let a new run go on from DeepSpeed's own checkpoints, native or universal, of any ZeRO stage and world size."""
    from gen_dist.cli.import_deepspeed import run
    from gen_dist.job.load import load_job

    facts = run(load_job(job, overrides), groups, images=images, trust=trust, as_json=as_json)
    if as_json:
        print_report(facts)


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Run folder, checkpoint folder, or models:/name@latest.")
    ],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Training captions to draw.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed gives the same score.")] = 0,
    attributes: Annotated[
        str, typer.Option(metavar="A,B,...", help="Measure these instead: keys of the samples' JSON member.")
    ] = "",
    data: Annotated[str, typer.Option(metavar="URL", help="With --attributes: shards whose captions are right.")] = "",
    record: Annotated[bool, typer.Option("--record", help="Keep it with models:/NAME/VERSION, for its gates.")] = False,
    tracking_uri: Annotated[str, typer.Option(help="MLflow address for models:/ names.")] = "",
    as_json: Json = False,
) -> None:
    """Measure how often a drawing's nearest real image has the caption's category.

    With --attributes, such as colour,shape, how often a drawing shows what its held-out caption says of each, read by
    a network that learns to read them from the real images first.
    """
    from gen_dist.cli.evaluate import run, run_attributes

    if attributes:
        facts = run_attributes(
            model,
            attributes,
            data=data,
            count=count,
            seed=seed,
            record=record,
            tracking_uri=tracking_uri,
            as_json=as_json,
        )
    else:
        facts = run(model, count=count, seed=seed, record=record, tracking_uri=tracking_uri, as_json=as_json)
    if as_json:
        print_report(facts)


@app.command()
def track(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Run folder, or s3://bucket/prefix/NAME of its checkpoints.")
    ],
    tracking_uri: Annotated[str, typer.Option(help="MLflow address; by default that of the run's job.")] = "",
    as_json: Json = False,
) -> None:
    """Send the log of a run to MLflow.

    What is there already stays as it is, so a run whose MLflow was away is completed, and an empty MLflow gets the
    whole run: its curves, its attempts, its samples where their files are still there.
    """
    from gen_dist.cli.track import run as send

    facts = send(run, tracking_uri=tracking_uri, as_json=as_json)
    if as_json:
        print_report(facts)


app.command()(plan)
app.command()(doctor)
app.command()(submit)
app.command("jobs")(listed)
app.command()(logs)
app.command()(stop)
app.command()(resume)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; 0, or 2 for what the person can mend: told in one line each, or as {"error": [...]}."""
    collect_rarely()
    _print_any_text()
    typed = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in typed if word != "--debug"] or ["--help"]  # --debug is accepted behind the verb too
    try:
        return app(words, prog_name="gen-dist", standalone_mode=False) or 0
    except KeyboardInterrupt:
        print("ended at once; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130
    except typer.TyperException as error:
        lines, exit_code = _usage(error), error.exit_code
    except Exception as error:
        found = _mendable(error)
        if "--debug" in typed or not found:
            raise
        lines, exit_code = found, 2
    lines = [str(without_secrets(line)) for line in lines]  # of a terminal too: it may be that of a CI, which keeps all
    if "--json" in typed:
        print_report({"error": lines})
    else:
        print("\n".join(lines), file=sys.stderr)
    return exit_code


def _mendable(error: Exception) -> list[str]:
    """What a person can do something about, on lines of its own; empty where it is a fault of the program.

    A file that the system refuses is such a thing wherever it is met: no right to it, no room, another kind of file.
    """
    from gen_dist.job.errors import GenDistError

    if isinstance(error, GenDistError):
        return error.lines
    if isinstance(error, OSError) and error.filename and error.strerror:
        return [f"{os.fsdecode(error.filename)}: {error.strerror}; --debug shows what wanted it"]
    return []


def _print_any_text() -> None:
    """A name of a file or half an emoji that no encoding has is printed as `\\udcff`, and ends no command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # whoever calls us may have put something else there
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _usage(error: typer.TyperException) -> list[str]:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "gen-dist"
    return [f"{path}: {error.format_message().rstrip('.')}; see {path} --help"]
