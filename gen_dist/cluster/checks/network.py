"""Do the machines reach each other as the workers of a run must: an all-reduce among them, and its bandwidth.

Each member is a process of its own: where a connection hangs, nothing but the process hangs with it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from gen_dist.cluster.checks.finding import Finding, named, note, ok, wrong
from gen_dist.cluster.checks.places import SLOW_START_S, Place, ask_process, wait, wait_all
from gen_dist.cluster.checks.try_allreduce import share

CHECK = "network"
TRIAL = "gen_dist.cluster.checks.try_allreduce"
JOIN_S = 20.0  # for all members to meet; the slowest comes up later by up to SLOW_START_S
LIMIT_S = 2 * JOIN_S
TOLD_BYTES = 1_000_000
CONNECT_S, LISTEN_S = 3.0, 60.0
MOST_PAIRS = 8  # machines that all try all others
REMEDY = (
    "let the machines reach each other on all ports, and where one has several networks name the right one in the"
    " environment of `ray start` (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"
)


def members(places: Sequence[Place], num_workers: int) -> list[Place]:
    """Who takes part: one process a machine; two where there is one machine and a run of several workers."""
    if len(places) == 1 and num_workers > 1:
        return [places[0], places[0]]
    return list(places) if len(places) > 1 else []


def unreachable(places: Sequence[Place]) -> dict[str, str]:
    """Machine -> why it does not reach another one, within seconds. Raises: LateError, or what a machine raised.

    Each tries all others where they are few, else the first one and the next.
    """
    hosts = {place.name: place for place in places}
    if len(hosts) < 2:
        return {}
    ports = {name: wait(place.call(_listen), SLOW_START_S) for name, place in hosts.items()}
    names, answers = list(hosts), {}
    for number, name in enumerate(names):
        others = names if len(names) <= MOST_PAIRS else [names[0], names[(number + 1) % len(names)]]
        asked = [(hosts[other].host, ports[other]) for other in others if other != name]
        answers[name] = hosts[name].call(_connect, asked)
    found, failed = wait_all(answers, CONNECT_S * MOST_PAIRS)
    return {name: text for name, text in found.items() if text} | {name: str(error) for name, error in failed.items()}


def start(places: Sequence[Place], *, backend: str) -> dict[str, Future[Any]]:
    """Begins one member at each place, by its rank and machine. Raises: LateError, or what the first place raised."""
    first = places[0]
    port = wait(first.call(_free_port), SLOW_START_S)
    asked = {"size": len(places), "host": first.host, "port": port, "backend": backend, "join_s": JOIN_S + SLOW_START_S}
    return {f"{rank}@{place.name}": place.call(member, {**asked, "rank": rank}) for rank, place in enumerate(places)}


def finish(answers: Mapping[str, Future[Any]]) -> tuple[dict[str, Any], dict[str, BaseException]]:
    """Answers and errors, by machine."""
    found, failed = wait_all(answers, LIMIT_S + 2 * SLOW_START_S)
    return _by_machine(found), _by_machine(failed)


def member(question: dict[str, Any]) -> dict[str, Any]:
    """One member on this machine. Raises: LateError, ProcessError."""
    unhidden = {"CUDA_VISIBLE_DEVICES": ""} if question["backend"] == "nccl" else {}  # Ray hides what nobody asked for
    return ask_process(TRIAL, question, limit_s=LIMIT_S, env=unhidden)


def judge(
    found: Mapping[str, Mapping[str, Any]], failed: Mapping[str, BaseException], *, backend: str, gradient_bytes: int
) -> Finding:
    """What the members said. `gradient_bytes`: what each worker of the run has to reduce a step; 0: not known."""
    told = {machine: str(facts["error"]) for machine, facts in found.items() if "error" in facts}
    told |= {machine: str(error) or type(error).__name__ for machine, error in failed.items()}
    if told:
        why = next(iter(told.values()))
        where = named(list(told)) or "this machine"
        return wrong(CHECK, f"no {backend} all-reduce with {where}: {why}; {REMEDY}", machines=dict(told))
    slowest = min(found.values(), key=lambda facts: facts["bytes_per_s"])
    measured = {
        "backend": backend,
        "members": slowest["size"],
        "bus_bytes_per_s": round(slowest["bytes_per_s"]),
        "latency_s": round(slowest["latency_s"], 6),
    }
    latency_ms = 1000 * slowest["latency_s"]
    speed = f"{slowest['bytes_per_s'] / 1e6:,.0f} MB/s of each member, {latency_ms:,.2f} ms for 4 bytes"
    text = f"{backend} all-reduce among {slowest['size']}: {speed}"
    if gradient_bytes >= TOLD_BYTES:
        measured["gradients_s"] = round(gradient_bytes * share(slowest["size"]) / slowest["bytes_per_s"], 4)
        text += f"; the {gradient_bytes / 1e6:,.0f} MB of gradients of one step take {measured['gradients_s']:,.2f} s"
    return ok(CHECK, text, **measured)


def judge_unreachable(texts: Mapping[str, str]) -> Finding:
    """What `unreachable` gave."""
    return wrong(CHECK, f"{'; '.join(f'{name} cannot reach {why}' for name, why in texts.items())}; {REMEDY}")


def alone(num_workers: int) -> Finding:
    """Nobody to talk to."""
    if num_workers == 1:
        return ok(CHECK, "one worker: nothing to reduce")
    return note(CHECK, "no machine to measure from: see the line `cluster`")


def _listen() -> int:
    """A port of this machine that takes connections for a while."""
    server = socket.create_server(("", 0), backlog=MOST_PAIRS**2)
    closing = threading.Timer(LISTEN_S, server.close)
    closing.daemon = True
    closing.start()
    port: int = server.getsockname()[1]
    return port


def _connect(addresses: Sequence[tuple[str, int]]) -> str:
    """Which of them cannot be reached from this machine, and why; empty where all can."""
    for host, port in addresses:
        try:
            socket.create_connection((host, port), timeout=CONNECT_S).close()
        except OSError as error:
            return f"{host}: {error.strerror or error}"
    return ""


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
        return port


def _by_machine(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {key.partition("@")[2]: value for key, value in facts.items()}
