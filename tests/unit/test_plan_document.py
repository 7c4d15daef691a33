"""The section "What it costs" of infra/README.md is what the code calculates now."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen_dist.plan.document import BEGIN, END, jobs_of, rewritten, section, table
from gen_dist.plan.errors import PlanError
from tests.support.text_models import write_clip

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "infra" / "README.md"


JOBS = [
    "jobs/latent-diffusion/large-256.toml",
    pytest.param("jobs/gigagan/base-64.toml", marks=pytest.mark.long),
]


@pytest.mark.parametrize("job", JOBS)
def test_the_table_of_costs_is_current(job: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    write_clip(tmp_path, weights=False)
    monkeypatch.chdir(tmp_path)  # jobs and their folders are named from there
    assert "\n".join(table(job)) in README.read_text(encoding="utf-8"), f"{job}: see gen_dist/plan/document.py"


def test_a_section_has_its_marks_a_head_and_the_tables_of_its_jobs() -> None:
    text = README.read_text(encoding="utf-8")
    jobs = jobs_of(text)
    assert jobs == [*JOBS[:1], "jobs/gigagan/base-64.toml"]
    assert section([]).removeprefix(BEGIN).partition(END)[0].partition("\n")[2].strip() in text
    assert rewritten(f"before\n{BEGIN}: old -->\nold\n{END}\nafter") == f"before\n{section([])}\nafter"


def test_a_page_without_marks_says_what_to_write() -> None:
    with pytest.raises(PlanError, match="no section of costs; write `<!-- costs of JOB"):
        rewritten("# infra\n")
