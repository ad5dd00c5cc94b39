"""Whether a Prefect server answers, and what its failures mean: events are still sent, and one line reports it.

Prefect's client tries for two minutes to report the end of a run, long enough to restart a server. Afterwards it would
try to send each queued task-run record for seven seconds, so these records are dropped.
"""

import contextlib
from collections.abc import Iterator

from resonant.errors import ServerError, ServerGone
from resonant.local.compatibility import drop_unsent_messages

_LOOKS = 3
_OK, _UNAUTHORIZED, _BUSY = 200, 401, 503


def is_healthy(api_url: str, path: str = "health") -> bool:
    """Return whether a server's API answers at this path; its health needs no password."""
    import httpx

    try:
        answer = httpx.get(f"{api_url.rstrip('/')}/{path}", timeout=5, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return answer.status_code == _OK


def is_there(api_url: str) -> bool:
    """Return whether a server answers in one of several health checks: a busy one may take longer than one allows."""
    return any(is_healthy(api_url) for _ in range(_LOOKS))


def is_open_to_all(api_url: str) -> bool:
    """Return whether a server's API answers without a password."""
    return is_healthy(api_url, "admin/version")


@contextlib.contextmanager
def translated_server_errors(api_url: str) -> Iterator[None]:
    """Turn failures of the server within the block into one plain error.

    Raises:
        ServerError: the server refuses the credentials (401).
        ServerGone: the server is unreachable or stays too busy.
    """
    import httpx

    try:
        yield
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == _UNAUTHORIZED:
            raise ServerError(
                f"the Prefect server at {api_url} refuses the credentials (401): PREFECT_API_AUTH_STRING must equal "
                "the server's PREFECT_SERVER_API_AUTH_STRING, USER:PASSWORD"
            ) from None
        if isinstance(error, httpx.HTTPStatusError):
            # By then Prefect's client has retried for a minute.
            if status != _BUSY or not str(error.request.url).startswith(api_url):
                raise
            raise ServerGone(
                f"the Prefect server at {api_url} stays too busy to answer (503): reduce its load, or move it to "
                "PostgreSQL"
            ) from None
        # Prefect's client raises a RuntimeError from the first one if its first request fails.
        failure = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(failure, httpx.TransportError) or is_there(api_url):
            raise
        drop_unsent_messages()
        raise ServerGone(f"the Prefect server at {api_url} became unreachable") from None
