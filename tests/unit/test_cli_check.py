"""`gen-dist check` answers in a moment: the resolved job, or a line for each mistake, for persons and for programs."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gen_dist import __version__, cli
from gen_dist.job.errors import JobError

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = "jobs/quickstart.toml"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_check_prints_the_job_its_defaults_and_what_follows(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", QUICKSTART, "--set", "train.global_batch_images=32"]) == 0
    shown = capsys.readouterr()
    assert "micro_batch_images = 8  # default: 32" in shown.out
    assert "accumulation       2 on 2 workers" in shown.out
    assert "run folder         runs/quickstart" in shown.out
    assert shown.err == ""


def test_check_tells_programs_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", QUICKSTART, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == QUICKSTART
    assert told["job"]["train"]["zero_stage"] == 1
    assert told["derived"]["accumulation"] == {"2": 1}
    assert told["derived"]["data"]["train"]["num_shards"] >= 1


def test_a_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", QUICKSTART, "--set", "recipe=latnt_diffusion", "--set", "seed=-1"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    seed, recipe = shown.err.splitlines()
    assert seed == "--set seed=-1: expected a whole number of at least 0; write such as 0, the default"
    assert recipe.startswith("--set recipe=latnt_diffusion: unknown recipe; did you mean 'latent_diffusion'? known: ")


@pytest.mark.parametrize(
    "arguments", [["check", "nowhere.toml"], ["check"], ["chekc", QUICKSTART], ["check", "--sett"]]
)
def test_programs_get_every_error_as_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments, "--json"]) == 2
    shown = capsys.readouterr()
    (line,) = json.loads(shown.out)["error"]
    assert "\n" not in line
    assert shown.err == ""


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize("key", ["tracking.uri", "data.url"])  # one that is taken, one that is refused
def test_a_password_in_an_address_is_not_said(key: str, as_json: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["check", QUICKSTART, "--set", f"{key}=https://ann:canary0password@host/x", *as_json])
    said = "".join(capsys.readouterr())
    assert "https://***@host/x" in said
    assert "canary" not in said


def test_debug_shows_where_an_error_came_from() -> None:
    with pytest.raises(JobError):
        cli.main(["check", "nowhere.toml", "--debug"])


def test_the_program_tells_its_version_and_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"gen-dist {__version__}\n"
    assert cli.main([]) == 0
    assert "check " in capsys.readouterr().out


def cpu_s(*arguments: str) -> float:
    """CPU seconds of a whole Python process, the lowest of three."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    return min(once() for _ in range(3))


def test_help_and_check_cost_less_than_two_fifths_of_importing_torch() -> None:
    torch_s = cpu_s("-c", "import torch")
    for arguments in (["--help"], ["check", QUICKSTART], ["check", QUICKSTART, "--json"]):
        assert cpu_s("-m", "gen_dist.cli", *arguments) < 0.4 * torch_s, arguments
