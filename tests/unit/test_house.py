"""The house keeps its shape: bounded files and functions, no dumping grounds, links that lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
TOP_LEVEL = {"jobs", "gen_dist", "infra", "tests", "pyproject.toml", "README.md"}
DUMPING_GROUNDS = {"utils", "util", "helpers", "helper", "misc", "common"}
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
# Spelled in two halves, so that this file passes its own test.
MACHINE_PATH = re.compile(r"(?<![\w.}/-])/" + r"(?:work|root|home/\w+)/")


def repository_files() -> list[Path]:
    """Every file that git tracks or would add, relative to the root and sorted."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    return sorted({Path(name) for name in listed if name and (ROOT / name).is_file()})


FILES = repository_files()
PYTHON_FILES = [file for file in FILES if file.suffix == ".py"]
PACKAGE_FILES = [file for file in PYTHON_FILES if file.parts[0] == "gen_dist"]
READMES = [file for file in FILES if file.name == "README.md"]
CONSTRAINTS = [file for file in FILES if file.parts[:2] == ("infra", "constraints")]


def parsed(file: Path) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"), filename=str(file))


@pytest.mark.parametrize("file", PYTHON_FILES, ids=str)
def test_a_python_file_is_short_and_says_what_you_get_from_it(file: Path) -> None:
    num_lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_FILE_LINES, f"{file} has {num_lines} lines; split it below {MAX_FILE_LINES}"
    docstring = ast.get_docstring(parsed(file)) or ""
    assert docstring.strip(), f"{file} has no docstring; say in one sentence what a reader gets from it"


@pytest.mark.parametrize("file", PACKAGE_FILES, ids=str)
def test_a_function_fits_on_a_screen(file: Path) -> None:
    functions = (node for node in ast.walk(parsed(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    long = {name: num_lines for name, num_lines in lengths.items() if num_lines > MAX_FUNCTION_LINES}
    assert not long, f"{file}: longer than {MAX_FUNCTION_LINES} lines: {long}"


def test_no_file_or_folder_is_a_dumping_ground() -> None:
    found = [str(file) for file in FILES if {Path(part).stem.lower() for part in file.parts} & DUMPING_GROUNDS]
    assert not found, f"name these for what they hold, or move their parts to where they are used: {found}"


def test_the_top_level_holds_only_what_the_house_has() -> None:
    top = {file.parts[0] for file in FILES if not file.parts[0].startswith(".")}
    assert top <= TOP_LEVEL, f"not part of the top level: {sorted(top - TOP_LEVEL)}"


@pytest.mark.parametrize("readme", READMES, ids=str)
def test_a_relative_link_in_a_readme_leads_somewhere(readme: Path) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / readme).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in LINK.findall(text)]
    relative = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    dead = [link for link in relative if not (ROOT / readme.parent / link).exists()]
    assert not dead, f"{readme} links to what is not there: {dead}"


def test_no_text_file_names_a_folder_of_one_machine() -> None:
    found = []
    for file in FILES:
        content = (ROOT / file).read_bytes()
        if b"\0" in content:
            continue
        lines = content.decode("utf-8", errors="replace").splitlines()
        found += [f"{file}:{number}: {line[:120]}" for number, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert not found, "use a path relative to the repository, or a variable:\n" + "\n".join(found)


@pytest.mark.parametrize("file", CONSTRAINTS, ids=str)
def test_the_pins_name_one_version_each_and_no_place_to_get_it(file: Path) -> None:
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    loose = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==([0-9]+!)?[A-Za-z0-9.]+", line)]
    assert not loose, f"{file}: write name==version, no option, URL or local build: {loose}"
    names = {line.split("==")[0].lower() for line in lines}
    assert "torch" in names
    unwanted = {name for name in names if re.match(r"torchvision|torchaudio|nvidia|cuda|triton", name)}
    assert not unwanted, f"{file}: the CPU set-up must stay small: {sorted(unwanted)}"


def test_cpu_and_gpu_machines_run_the_same_versions() -> None:
    pins = [{line for line in (ROOT / file).read_text().splitlines() if "==" in line} for file in CONSTRAINTS]
    assert len(pins) == 2
    assert pins[0] == pins[1]
