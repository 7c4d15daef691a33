"""Jobs: the Jobs API of one cluster through Ray's own client, with time limits, and errors of one line.

It talks to the dashboard of the head, http://HEAD:8265, with the token of Ray's token authentication.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock
from uuid import uuid4

import aiohttp
import ray
import requests
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobSubmissionClient

from gen_dist.cluster.checks.room import Node
from gen_dist.cluster.errors import JobsError
from gen_dist.registry.secrets import without_secrets

CONNECT_S, ANSWER_S = 10.0, 120.0
HELLO_S = 15.0  # for the first word of whoever listens there, which no agent is asked for
SERVER_ERROR = 500
AGAIN_AFTER_S = (0.5, 2.0, 5.0)
MOST_LETTERS = 300
STOP_WAIT_S = 600
"""For a driver to save and end when it is stopped, before Ray kills it."""
_MARK = "gen_dist.submission"  # tells the job of one call from any other of its id
_RAY_ADDRESS = "RAY_API_SERVER_ADDRESS"  # overrides the address that Ray's client is given
_TOKEN = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
_NOT_HTTP = "what answers there does not speak HTTP; the usual port of a dashboard is 8265, and 6379 is Ray's own"
_NOT_RAY = (
    "somebody answers there, but not as the dashboard of a Ray head does; name its address, such as http://HEAD:8265"
)
_ALIVE = "/api/v0/nodes?limit=10000&filter_keys=state&filter_predicates=%3D&filter_values=ALIVE"
"""Without its limit, the most that a head gives, it answers 100 of all machines that ever were, and so fewer alive."""
_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.authentication.http_token_authentication",
)


class UnknownJobError(JobsError):
    """A job that the cluster does not know."""


class UnreachableError(JobsError):
    """A cluster that does not answer now, and may later."""


class UnreadableLogError(JobsError):
    """A log that the cluster cannot give, for the machine of its driver is gone."""


class _RefusedError(Exception):
    """An answer of the head other than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status, self.text = status, text


class _Client(JobSubmissionClient):
    """Ray's client: no request of it waits for ever, a refusal keeps its number, and a busy head is asked again.

    The head passes most requests on to an agent on the machine of the driver, which may take its time or hang up.
    """

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        limits_s = (CONNECT_S, HELLO_S if endpoint == "/api/version" else ANSWER_S)
        starts_a_job = (method, endpoint) == ("POST", "/api/jobs/")  # all others may be asked twice
        for wait_s in () if starts_a_job else AGAIN_AFTER_S:
            answer = super()._do_request(method, endpoint, timeout=limits_s, **options)
            if answer.status_code < SERVER_ERROR:
                return answer
            time.sleep(wait_s)
        return super()._do_request(method, endpoint, timeout=limits_s, **options)

    def _raise_error(self, r: requests.Response) -> None:
        raise _RefusedError(r.status_code, r.text)


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, url: str) -> None:
        """`url`: address of its dashboard. Raises: JobsError where no Ray answers there."""
        self.url = url.rstrip("/")
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)  # what they warn of is told in our errors
        with self._told(), mock.patch.dict(os.environ, {_RAY_ADDRESS: self.url}):
            self._ray = _Client(self.url)

    def check_versions(self) -> None:
        """Raises: JobsError where the cluster's Ray or Python is another than this machine's."""
        with self._told():
            answer = self._ray._do_request("GET", "/api/v0/cluster_metadata")
            if answer.status_code != requests.codes.ok:
                self._ray._raise_error(answer)
            found = answer.json()["data"]
        theirs = {"Ray": found["rayVersion"], "Python": _minor(found["pythonVersion"])}
        ours = {"Ray": ray.__version__, "Python": _minor(platform.python_version())}
        unlike = [name for name in ours if ours[name] != theirs[name]]
        if unlike:
            has = " and ".join(f"{name} {theirs[name]}" for name in unlike)
            here = " and ".join(f"{name} {ours[name]}" for name in unlike)
            raise JobsError(
                f"{self.url}: the cluster has {has}, and this machine {here}; nothing was sent. Submit from an"
                " environment like the cluster's, or start the cluster with the pins of infra/constraints"
            )

    def nodes(self) -> list[Node]:
        """Machines that are there now; what is free on them is not told."""
        with self._told():
            answer = self._ray._do_request("GET", _ALIVE).json()
            alive = [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]
            return [
                Node(node["node_ip"], node["node_id"], node["resources_total"], node["resources_total"])
                for node in alive
            ]

    def list(self) -> list[JobDetails]:
        """All jobs that the cluster remembers."""
        with self._told():
            return self._ray.list_jobs()

    def get(self, job_id: str) -> JobDetails:
        """One of them. Raises: UnknownJobError."""
        with self._told(job_id):
            return self._ray.get_job_info(job_id)

    def log(self, job_id: str) -> str:
        """All that its driver has said so far. Raises: UnreadableLogError."""
        with self._told(job_id):
            try:
                return self._ray.get_job_logs(job_id)
            except _RefusedError as error:
                if error.status < SERVER_ERROR:
                    raise
                raise UnreadableLogError(
                    f"{job_id}: its log is on the machine where its driver ran, which does not answer; the log of the"
                    " run itself is in its folder, `wal/`"
                ) from None

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        """Its log from the beginning, in pieces as they come, until it ends or the connection does."""
        with self._told(job_id):
            async for text in self._ray.tail_job_logs(job_id):
                yield text

    def submit(
        self,
        command: str,
        *,
        job_id: str,
        package: bytes,
        env: Mapping[str, str],
        metadata: Mapping[str, str],
        node_id: str = "",
    ) -> bool:
        """Start a command of a shell in a copy of `package`, a zip, on the head or the machine `node_id`.

        False where the cluster knows another job of that id.
        """
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **env}  # read by what runs the command
        mark = uuid4().hex
        with self._told(job_id), TemporaryDirectory(prefix="gen-dist-") as folder:
            zipped = Path(folder) / "code.zip"
            zipped.write_bytes(package)
            try:
                self._ray.submit_job(
                    entrypoint=command,
                    submission_id=job_id,
                    runtime_env={"working_dir": str(zipped), "env_vars": environment},
                    metadata={**metadata, _MARK: mark},
                    entrypoint_label_selector={"ray.io/node-id": node_id} if node_id else None,
                )
            except _RefusedError as error:
                return self._is_there(job_id, mark, error)
        return True

    def _is_there(self, job_id: str, mark: str, error: _RefusedError) -> bool:
        """Whether a job was started though the head answered with an error, as where its agent hung up."""
        try:
            found = self._ray.get_job_info(job_id)
        except _RefusedError:
            raise error from None
        return (found.metadata or {}).get(_MARK) == mark

    def stop(self, job_id: str) -> None:
        """Ask its driver to save and end; after STOP_WAIT_S Ray kills it. Returns at once."""
        with self._told(job_id):
            self._ray.stop_job(job_id)

    @contextlib.contextmanager
    def _told(self, job_id: str = "") -> Iterator[None]:
        """Whatever goes wrong on the way to the cluster, in one line."""
        at = without_secrets(self.url)
        try:
            yield
        except _RefusedError as error:
            if error.status == requests.codes.not_found and job_id:
                raise UnknownJobError(
                    f"{job_id}: no such job at {at}; `gen-dist jobs --cluster {at}` lists them. A head that was started"
                    " anew knows none from before: submit the job file again, and its run goes on"
                ) from None
            raise JobsError(f"{at}: refused with {error.status}: {_remedied(error)}") from None
        except AuthenticationError as error:
            raise JobsError(f"{at}: {_token_trouble(error)}") from None
        except requests.exceptions.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status < SERVER_ERROR:
                raise JobsError(f"{at}: {_NOT_RAY}") from None
            raise UnreachableError(
                f"{at}: answered with {status}; the dashboard is not ready yet, or a proxy before it does not reach it"
            ) from None
        except (requests.exceptions.JSONDecodeError, KeyError, TypeError):
            raise JobsError(f"{at}: {_NOT_RAY}") from None
        except (requests.exceptions.RequestException, aiohttp.ClientError, OSError, RayError) as error:
            raise UnreachableError(
                f"{at}: no answer ({_reason(error)}); see that the head runs with its dashboard (`ray start --head"
                " --dashboard-host=0.0.0.0`) and can be reached from here (`kubectl port-forward`, `ssh -L`), or name"
                " another with --cluster"
            ) from None
        except RuntimeError as error:
            text = str(error)
            if "WebSocket" in text:
                raise UnreachableError(f"{at}: the connection broke") from None
            if "Version check" in text:  # the page of a version was not found
                raise JobsError(f"{at}: {_NOT_RAY}") from None
            raise JobsError(f"{at}: {_cut(text)}; the log of the head's dashboard says more") from None


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _remedied(error: _RefusedError) -> str:
    text = _cut(error.text.strip().splitlines()[-1] if error.text.strip() else "")
    if error.status == requests.codes.request_entity_too_large:
        return "too large for it or a proxy before it; raise the proxy's limit of a request's body"
    return f"{text or 'no reason given'}; the log of the head's dashboard (dashboard_JobHead.log) says more"


def _token_trouble(error: AuthenticationError) -> str:
    text = str(error)
    if text.startswith("Authentication failed"):
        return f"the cluster has another token than the one here; put the cluster's into {_TOKEN}"
    if text.startswith("Authentication required"):
        return f"the cluster wants a token, and there is none here; put the cluster's into {_TOKEN}"
    return f"no token: {_cut(text.partition('. ')[0])}; put the cluster's into {_TOKEN}"


def _reason(error: BaseException) -> str:
    """The innermost cause, which names what the operating system said."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    inside = getattr(error, "reason", None) or error
    text = without_secrets(str(inside)).rpartition(": ")[2]
    return _cut(text) if text and text.isprintable() else _NOT_HTTP


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_LETTERS else line[: MOST_LETTERS - 1] + "…"
