"""Handle a Prefect server that becomes unreachable or stays busy: events are still sent, and one line reports it.

Prefect's client tries for two minutes to report the end of a run, long enough to restart a server. Afterwards it would
try to send each queued task-run record for seven seconds, so these records are dropped.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from resonant.errors import ServerGone
from resonant.local.compatibility import drop_unsent_messages
from resonant.local.health import is_healthy

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOKS = 3
_BUSY = 503


def is_there(api_url: str) -> bool:
    """Return whether a server answers in one of several health checks: a busy one may take longer than one allows."""
    return any(is_healthy(api_url) for _ in range(_LOOKS))


@contextlib.contextmanager
def translated_server_errors(api_url: str) -> Iterator[None]:
    """Turn failures of the server within the block into one plain error.

    Raises:
        ServerGone: the server is unreachable or stays too busy.
    """
    import httpx

    try:
        yield
    except (httpx.TransportError, RuntimeError) as error:
        # Prefect's client raises a RuntimeError from the first one if its first request fails.
        failures = (error, error.__cause__)
        if not any(isinstance(each, httpx.TransportError) for each in failures) or is_there(api_url):
            raise
        drop_unsent_messages()
        raise ServerGone(f"the Prefect server at {api_url} became unreachable") from None
    except httpx.HTTPStatusError as error:
        # By then Prefect's client has retried for a minute.
        if error.response.status_code != _BUSY or not str(error.request.url).startswith(api_url):
            raise
        raise ServerGone(
            f"the Prefect server at {api_url} stays too busy to answer (503): reduce its load, or move it to "
            "PostgreSQL"
        ) from None
