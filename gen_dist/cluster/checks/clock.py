"""Do the clocks agree: machines with each other, and with the object store, which refuses requests of another time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gen_dist.cluster.checks.finding import Finding, named, ok, wrong
from gen_dist.cluster.checks.places import Place, wait

CHECK = "clock"
NUM_CALLS = 5  # the quickest one says most
CALL_S = 10.0
MOST_APART_S = 5.0  # logs and curves of a run are in the order of their clocks
MOST_FROM_STORE_S = 60.0  # a Date header has whole seconds; S3 refuses what is signed 15 minutes off
REMEDY = "let the system's time service run there (chrony, systemd-timesyncd)"


def offset_s(place: Place) -> tuple[float, float]:
    """How far a machine's clock is ahead of ours, and how well we know it, both in seconds: half a call's time.

    Raises: LateError, or what the machine raised.
    """
    best = (0.0, float("inf"))
    for _ in range(NUM_CALLS):
        asked_s, asked_at = time.monotonic(), time.time()
        there_s = wait(place.call(time.time), CALL_S)
        half_s = (time.monotonic() - asked_s) / 2
        if half_s < best[1]:
            best = (there_s - asked_at - half_s, half_s)
    return best


def judge(offsets: Mapping[str, tuple[float, float]], store_ahead_s: Mapping[str, float | None]) -> Finding:
    """`offsets` by machine as `offset_s` gives them; by machine how far the store's clock is ahead of it, where one is.

    What may be the time that a call took is no difference.
    """
    late = {name: f"{value:+,.1f} s" for name, (value, half_s) in offsets.items() if abs(value) > MOST_APART_S + half_s}
    store: dict[str, float] = {name: value for name, value in store_ahead_s.items() if value is not None}
    off = {name: value for name, value in store.items() if abs(value) > MOST_FROM_STORE_S}
    apart_s = max((abs(value) for value, _ in offsets.values()), default=0.0)
    measured: dict[str, Any] = {"apart_s": round(apart_s, 3)}
    if store:
        furthest_s = max(store.values(), key=abs)
        measured["store_ahead_s"] = round(furthest_s, 1)
    if off:
        worst = max(off.values(), key=abs)
        where = named(list(off)) or "this machine"
        seen = f"the object store's clock is {worst:+,.0f} s from that of {where}"
        what = f"{seen}, and it refuses what is signed 900 s off"
        return wrong(CHECK, f"{what}; {REMEDY}", **measured)
    if late:
        seen = ", ".join(f"{name} {value}" for name, value in list(late.items())[:3])
        return wrong(CHECK, f"{seen} from the driver's clock; {REMEDY}", **measured)
    if not store and len(offsets) < 2:
        return ok(CHECK, "one machine and no object store: nothing to disagree with", **measured)
    said = [f"machines within {max(apart_s, 0.1):.1f} s"] if len(offsets) > 1 else []
    said += [f"the object store within {max(abs(measured['store_ahead_s']), 1.0):.0f} s"] if store else []
    return ok(CHECK, " and ".join(said), **measured)
