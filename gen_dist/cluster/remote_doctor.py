"""The doctor on a cluster, asked from the laptop: a job of its own on the head, whose log is the findings.

`python -m gen_dist.cluster.remote_doctor FILE` is what runs there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from gen_dist.cluster.checks.finding import CLUSTER, Finding, wrong
from gen_dist.cluster.client import Jobs
from gen_dist.cluster.errors import JobsError
from gen_dist.cluster.module import run_module
from gen_dist.cluster.package import embedded_of
from gen_dist.cluster.submit import JOB_FILE, refuse_secrets
from gen_dist.job.load import load_resolved, resolve
from gen_dist.job.spec import JobSpec

MARK = "gen-dist-finding "
LIMIT_S = 600.0  # the checks' own limits end them far sooner


class Listener:
    """Told the log of the far doctor in pieces, it hands on each finding."""

    def __init__(self, say: Callable[[Finding], None]) -> None:
        self.findings: list[Finding] = []
        self._say, self._rest = say, ""

    def hear(self, text: str) -> None:
        """The next piece; a line may come in several."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.startswith(MARK):
                finding = Finding.from_json(json.loads(line.removeprefix(MARK)))
                self.findings.append(finding)
                self._say(finding)


def examine_from_afar(url: str, job: JobSpec, say: Callable[[Finding], None]) -> list[Finding]:
    """As `doctor.examine`, on the cluster whose dashboard is at `url`, for a job that was loaded with `away`.

    A cluster that does not take the doctor is a finding too.
    """
    job = job.model_copy(update={"cluster": job.cluster.model_copy(update={"address": "auto"})})
    listener = Listener(say)
    try:
        refuse_secrets(job, {})
        ended = run_module(
            Jobs(url),
            __spec__.name,
            [JOB_FILE],
            name="doctor",
            files={JOB_FILE: json.dumps(resolve(job)).encode()},
            embedded=embedded_of(job),
            limit_s=LIMIT_S,
            watch=listener.hear,
        )
    except JobsError as error:
        listener.hear(_said(wrong(CLUSTER, str(error))))
        return listener.findings
    if not ended.succeeded:
        last = [line.strip() for line in ended.log.splitlines() if line.strip()] or [ended.message]
        what = f"the doctor did not come to its end on {url}: {last[-1]}"
        listener.hear(_said(wrong(CLUSTER, f"{what}; `gen-dist logs {ended.job_id}` shows all that it said")))
    return listener.findings


def _said(finding: Finding) -> str:
    return f"{MARK}{json.dumps(finding.to_json())}\n"


def main(file: str) -> None:
    """On the cluster: the findings, a line of JSON each."""
    from gen_dist.cluster.doctor import examine  # torch and more, which the laptop does without

    job = load_resolved(json.loads(Path(file).read_text(encoding="utf-8")), origin=file)
    examine(job, lambda finding: print(_said(finding), end="", flush=True))  # noqa: T201  the log is the answer


if __name__ == "__main__":
    main(sys.argv[1])
