"""Handling a Prefect server that goes away or stays busy during a run: events are still sent, and one line reports it.

Prefect's client tries for two minutes to report the end of a run, time enough to restart a server. Its log lines and
tracebacks meanwhile are hidden: they do not concern the delivery. Afterwards it would try to send each queued task-run
record for seven seconds, so these are dropped.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING

from resonant.errors import ResonantError
from resonant.local.health import is_healthy

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOKS = 3
_BUSY = 503
_WITHIN_PREFECT = (
    "prefect.events.clients",
    "prefect._internal.concurrency",
    "prefect.flow_runs",
    "websockets.client",
)
# At the end of a process these services warn about queued items.
_SENDING = ("EventsWorker", "APILogWorker")
_OF_AN_OUTAGE = (
    "Unable to connect to",
    "Service 'EventsWorker' failed",
    "Service 'APILogWorker' failed",
    "keepalive ping failed",  # logged after a suspension; Prefect's client reconnects
    "Finished in state Running",  # which it could not leave
)


class ServerGone(ResonantError):
    """The Prefect server went away, or stayed too busy to answer."""


@contextlib.contextmanager
def outage_told_plainly(api_url: str) -> Iterator[None]:
    """Turn failures of the server within the block into one plain error.

    Raises:
        ServerGone: the server is gone or stays too busy.
    """
    import httpx

    _say_nothing_of_connections()
    try:
        yield
    except httpx.TransportError:
        # A busy server may take longer than one health check allows.
        if any(is_healthy(api_url) for _ in range(_LOOKS)):
            raise
        forget_records()
        raise ServerGone(f"the Prefect server at {api_url} went away, and did not come back") from None
    except httpx.HTTPStatusError as error:
        # By then Prefect's client has retried for a minute.
        if error.response.status_code != _BUSY or not str(error.request.url).startswith(api_url):
            raise
        raise ServerGone(
            f"the Prefect server at {api_url} stays too busy to answer (503): reduce its load, or move it to "
            "PostgreSQL"
        ) from None


def forget_records() -> None:
    """End the services of Prefect's client, if it is imported, that have yet to tell the server about task runs and logs."""
    if "prefect._internal.concurrency.services" in sys.modules:
        from prefect._internal.concurrency.services import _active_services

        for service in list(_active_services):
            # The process ends when they are done, or say so; they have no other way to end soon.
            if service._loop is not None and service._done_event is not None:  # noqa: SLF001
                service._loop.call_soon_threadsafe(service._done_event.set)  # noqa: SLF001


def _say_nothing_of_connections() -> None:
    """Hide Prefect's messages about an unreachable server, for the rest of this process."""
    logging.raiseExceptions = False  # Prefect's log handler prints its own failures
    for name in _WITHIN_PREFECT:
        logging.getLogger(name).addFilter(_is_no_outage)
    for name in _SENDING:
        logging.getLogger(name).setLevel(logging.ERROR)


def _is_no_outage(record: logging.LogRecord) -> bool:
    import httpx

    error = record.exc_info[1] if record.exc_info else None
    text = record.getMessage()
    return not (isinstance(error, httpx.TransportError) or text.startswith(_OF_AN_OUTAGE))
