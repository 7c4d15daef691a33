"""What infra/ tells to start is a job that load_job takes: each `--set` of its commands is passed to it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from gen_dist.job.load import load_job
from tests.support.cli import ROOT
from tests.support.manifests import INFRA, document

CONFIG_MAP = "/etc/gen-dist/job/job.toml"
MOUNTED = re.compile(r"--from-file=job\.toml=(\S+)")
VARIABLE = re.compile(r"\$\{?\w+\}?")


def joined(text: str) -> list[str]:
    """Its lines, those that end in a backslash with what follows them."""
    return text.replace("\\\n", " ").splitlines()


def of_readme(start: str) -> list[list[str]]:
    """The words of its commands that begin so and name a job file."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (INFRA / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in joined(block) if line.startswith(start)]
    commands = [shlex.split(line, comments=True) for line in lines]
    return [words for words in commands if any(word.endswith(".toml") for word in words)]


def of_script() -> list[str]:
    """The command in the first lines of infra/slurm/train.sbatch, which say how it is called."""
    remarks = [line.removeprefix("#").strip() for line in (INFRA / "slurm" / "train.sbatch").read_text().splitlines()]
    (command,) = [line for line in joined("\n".join(remarks[:6])) if line.startswith("sbatch ")]
    return shlex.split(command)


def of_manifest() -> list[str]:
    """The entrypoint of the RayJob, with the job file that the README puts into its ConfigMap."""
    (file,) = MOUNTED.findall((INFRA / "README.md").read_text())
    (told,) = MOUNTED.findall((INFRA / "kuberay" / "job.yaml").read_text())
    assert file == told
    words = shlex.split(document("kuberay/job.yaml")["spec"]["entrypoint"])
    return [file if word == CONFIG_MAP else word for word in words]


COMMANDS = {
    "README, Slurm": of_readme("sbatch ")[0],
    "slurm/train.sbatch": of_script(),
    "kuberay/job.yaml": of_manifest(),
    **{f"README, {' '.join(words[:3])}": words for words in of_readme("gen-dist ")},
}


def job_and_settings(words: Sequence[str]) -> tuple[Path, list[str]]:
    (file,) = [word for word in words if word.endswith(".toml")]
    settings = [VARIABLE.sub("http://mlflow.example.org", text) for word, text in pairwise(words) if word == "--set"]
    return ROOT / file, settings


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_starts_a_job(name: str) -> None:
    file, settings = job_and_settings(COMMANDS[name])
    load_job(file, settings)


@pytest.mark.parametrize("name", ["README, Slurm", "slurm/train.sbatch", "kuberay/job.yaml"])
def test_a_command_for_many_gpus_has_a_worker_for_each(name: str) -> None:
    file, settings = job_and_settings(COMMANDS[name])
    job = load_job(file, settings)
    assert job.cluster.use_gpu
    assert job.cluster.num_workers == (16 if "kuberay" in name else 32)
