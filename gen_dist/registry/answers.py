"""Whether the MLflow server of a job answers, asked with one request: MLflow's own client takes seconds to import."""

from __future__ import annotations

import requests

from gen_dist.job.errors import GenDistError
from gen_dist.registry.secrets import without_secrets

CONNECT_S, ANSWER_S = 3.0, 5.0
SERVED = ("http://", "https://")
SERVER_ERROR = 500
MOST_LETTERS = 160


class AwayError(GenDistError):
    """An MLflow server that does not answer."""


def check_answers(uri: str) -> None:
    """Raises: AwayError. What is no address of a server is fine, and so is one that wants to know who asks."""
    if not uri.startswith(SERVED):
        return
    why = ""
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=(CONNECT_S, ANSWER_S))
        if answer.status_code >= SERVER_ERROR:
            why = f"it answers with {answer.status_code}"
    except requests.exceptions.SSLError:
        return  # MLflow has settings of its own for certificates
    except (requests.exceptions.RequestException, UnicodeError) as error:  # the latter: of a name that is none
        why = f"no answer ({_reason(error)})"
    if why:
        raise AwayError(
            f"MLflow at {without_secrets(uri)}: {why}; check tracking.uri and that the server runs. A run goes on"
            " without it, and `gen-dist track RUN` sends its record later"
        )


def _reason(error: BaseException) -> str:
    """The innermost cause, which names what the operating system said."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = " ".join(without_secrets(str(getattr(error, "reason", None) or error)).split()).rpartition(": ")[2]
    return text[:MOST_LETTERS] or type(error).__name__
