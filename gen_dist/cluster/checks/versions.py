"""Do all machines run the same code: Python, the packages that make the numbers, and this package itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from gen_dist.cluster.checks.finding import Finding, named, ok, wrong

CHECK = "versions"
LETTERS = 12  # of a digest: enough to tell two apart
REMEDY = "install the same pins there (infra/constraints), from the same image or lock, and start its Ray again"


def judge(driver: Mapping[str, Any], machines: Mapping[str, Mapping[str, Any]]) -> Finding:
    """Facts of `machine.look`: those of the process that will drive the run, and those of each machine by its name.

    The driver's are what the others are held against: it sends its code and its classes to them.
    """
    ours = flat(driver)
    missing = [name for name, version in ours.items() if not version]
    if missing:
        return wrong(CHECK, f"not installed here: {', '.join(missing)}; `infra/dev setup` installs the pins")
    other: dict[tuple[str, str], list[str]] = {}
    for machine, facts in machines.items():
        theirs = flat(facts)
        for package in ours:
            if theirs.get(package, "") != ours[package]:
                other.setdefault((package, theirs.get(package, "")), []).append(machine)
    if not other:
        about = f"Python {ours['Python']}, torch {ours['torch']}, ray {ours['ray']}, deepspeed {ours['deepspeed']}"
        return ok(CHECK, f"{about}, and the same on all machines" if len(machines) > 1 else about, **ours)
    said = [
        f"{package} {version or 'is missing'} on {named(where)}, {ours[package]} here"
        for (package, version), where in sorted(other.items(), key=lambda item: -len(item[1]))
    ]
    how_often = Counter(machine for where in other.values() for machine in where)
    return wrong(CHECK, f"{'; '.join(said)}; {REMEDY}", machines=sorted(how_often))


def flat(facts: Mapping[str, Any]) -> dict[str, str]:
    """Name -> version, Python's and our own code's among them; without builds (`+cu130`): a head may have no GPU."""
    found = {name: version.partition("+")[0] for name, version in facts["versions"].items()}
    return {"Python": facts["python"], **found, "gen-dist": f"{found.get('gen-dist')} code {facts['code'][:LETTERS]}"}
