"""`python -m tests.speed NAME`: run a benchmark of both sides and print how they compare; `--list` names them all."""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import sys
from collections.abc import Sequence

from tests.speed.sides import Result

BENCHMARKS = {
    "train-overhead": "tests.speed.train_overhead",
    "stream-vs-peers": "tests.speed.stream.vs_peers",
    "stream-ceiling": "tests.speed.stream.ceiling",
    "stream-latents": "tests.speed.stream.latents",
    "stream-resume": "tests.speed.stream.resume",
    "checkpoint-blocking": "tests.speed.checkpoint.blocking",
    "checkpoint-total": "tests.speed.checkpoint.total",
    "resume": "tests.speed.checkpoint.resume",
    "recovery": "tests.speed.recovery",
    "gigagan-vs-peer": "tests.speed.gigagan.vs_peer",
    "gigagan-compiled": "tests.speed.gigagan.compiled",
}


def main(arguments: Sequence[str]) -> int:
    """0; 2 for a benchmark that does not exist."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.speed", description="Measure ours against theirs in one run."
    )
    parser.add_argument("name", nargs="?", help="the benchmark")
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    parser.add_argument("--json", action="store_true", help="print one line of JSON after the summary")
    parser.add_argument("--only", default="", metavar="CASE", help="only the cases whose name begins so")
    parser.add_argument(
        "--tiny",
        action="store_true",
        help="a few steps of tiny networks, or a few samples: shows that it runs, no more",
    )
    options = parser.parse_args(arguments)
    if options.list or options.name is None:
        for name, module in BENCHMARKS.items():
            print(
                f"{name}: {(importlib.import_module(module).__doc__ or '').splitlines()[0].removeprefix(f'{name}: ')}"
            )
        return 0
    if options.name not in BENCHMARKS:
        close = difflib.get_close_matches(options.name, BENCHMARKS, n=1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        print(f"{options.name}: no such benchmark; {meant}known: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    try:
        result: Result = importlib.import_module(BENCHMARKS[options.name]).run(only=options.only, tiny=options.tiny)
    except ValueError as error:
        print(f"{options.name}: {error}", file=sys.stderr)
        return 2
    print(as_text(options.name, result))
    if options.json:
        print(as_json(options.name, result))
    return 0


def as_json(name: str, result: Result) -> str:
    """One line."""
    figures = {f"ours_{result.unit}": result.ours, f"theirs_{result.unit}": result.theirs}
    return json.dumps({"name": name, "ratio": result.ratio, **figures, "unit": result.unit, "cases": result.cases})


def as_text(name: str, result: Result) -> str:
    """A line for each case."""
    lines = [f"{name}: ours / theirs = {result.ratio:.3f} at worst (lower is better)"]
    for case, figures in result.cases.items():
        rest = "  ".join(f"{key}={value:.4g}" for key, value in figures.items())
        lines.append(f"  {case:<{max(map(len, result.cases))}}  {rest}")
    return "\n".join(lines)


sys.exit(main(sys.argv[1:]))
