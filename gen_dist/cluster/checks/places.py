"""Places: where checks run, this process or a machine of the cluster, and how they are waited for.

Whatever hangs there keeps nobody: an answer that does not come in time is `Late`, and its thread or process is left
behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import ray.exceptions

SLOW_START_S = 60.0  # of a process on a busy machine, before anything that a limit is for begins


class Place(Protocol):
    """A machine that runs functions of this package."""

    @property
    def name(self) -> str:
        """Its address; empty for the only one."""
        ...

    @property
    def host(self) -> str:
        """The address at which others reach it."""
        ...

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Begins at once; several calls at the same time are fine."""
        ...


@dataclass(frozen=True)
class Here:
    """This process, in threads that end with it."""

    name: str = ""
    host: str = "127.0.0.1"

    def call(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """See `Place`."""
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(function(*arguments))
            except BaseException as error:  # noqa: BLE001  told to who asked
                answer.set_exception(error)

        threading.Thread(target=run, name=f"doctor-{function.__name__}", daemon=True).start()
        return answer


class LateError(Exception):
    """No answer within the limit."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(limit_s)
        self.limit_s = limit_s

    def __str__(self) -> str:
        return f"no answer within {self.limit_s:g} s"


def wait(answer: Future[Any], limit_s: float) -> Any:
    """What was answered. Raises: LateError, or what the function raised, also on a machine of a cluster."""
    try:
        return answer.result(limit_s)
    except TimeoutError as error:
        if answer.done():  # the function's own
            raise
        raise LateError(limit_s) from error
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # its text would be a traceback


def wait_all(answers: Mapping[str, Future[Any]], limit_s: float) -> tuple[dict[str, Any], dict[str, BaseException]]:
    """Answers and errors by machine, all within one limit."""
    found: dict[str, Any] = {}
    failed: dict[str, BaseException] = {}
    deadline_s = time.monotonic() + limit_s
    for name, answer in answers.items():
        try:
            found[name] = wait(answer, max(0.0, deadline_s - time.monotonic()))
        except LateError:
            failed[name] = LateError(limit_s)
        except Exception as error:  # noqa: BLE001  one machine's trouble is a finding about it
            failed[name] = error
    return found, failed


@dataclass(frozen=True)
class Asked:
    """What was begun at once with other things, and may take `limit_s` from then on."""

    answers: Mapping[str, Future[Any]]
    limit_s: float
    began_s: float = field(default_factory=time.monotonic)

    def wait(self) -> tuple[dict[str, Any], dict[str, BaseException]]:
        """Answers and errors by machine; those that come too late are `LateError`."""
        found, failed = wait_all(self.answers, max(0.0, self.began_s + self.limit_s - time.monotonic()))
        late = {name: LateError(self.limit_s) for name, error in failed.items() if isinstance(error, LateError)}
        return found, failed | late


def on_all(places: Sequence[Place], function: Callable[..., Any], *arguments: Any) -> dict[str, Future[Any]]:
    """Begins the same on all machines."""
    return {place.name: place.call(function, *arguments) for place in places}


class ProcessError(Exception):
    """A process of a check that ended without an answer; the message is the last line that it wrote."""


def ask_process(module: str, question: Mapping[str, Any], *, limit_s: float, env: Mapping[str, str]) -> dict[str, Any]:
    """Runs `python -m module`, which reads one JSON object and prints another as its last line.

    It is ended when it is late: `limit_s` is for the work, and Python has `SLOW_START_S` more to come up. The question
    may hold secrets, so it goes through a pipe. A variable that `env` has as empty is taken out of the environment.
    Raises: LateError, ProcessError.
    """
    seen = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **env}
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in seen.items() if value or name not in env},
    )
    try:
        told, errors = process.communicate(json.dumps(question), timeout=limit_s + SLOW_START_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LateError(limit_s) from None
    lines = [line for line in told.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        last = [line.strip() for line in errors.splitlines() if line.strip()]
        raise ProcessError(last[-1] if last else f"ended with exit code {process.returncode} and without a word")
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer
