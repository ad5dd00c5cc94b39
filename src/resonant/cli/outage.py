"""A Prefect server that goes away in mid-run, or stays busy: events are sent nevertheless, and one line says what happened.

Prefect's client tries for two minutes to tell the server how a run ended, which is time enough for a server to be started
again. What it says meanwhile, and tracebacks of its own, are nothing to whoever only wants events delivered. And the records of
task runs that it still has then it would try to send for seven seconds each.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import TYPE_CHECKING

from resonant.errors import ResonantError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOOKS = 3
_BUSY = 503
_WITHIN_PREFECT = ("prefect.events.clients", "prefect._internal.concurrency", "prefect.flow_runs")
# At the end of a process they warn of each item that is still to be sent.
_SENDING = ("EventsWorker", "APILogWorker")
_OF_AN_OUTAGE = (
    "Unable to connect to",
    "Service 'EventsWorker' failed",
    "Service 'APILogWorker' failed",
    "Finished in state Running",  # which it could not leave
)


class ServerGone(ResonantError):
    """The Prefect server went away, or stayed too busy to answer, while its client waited for it."""


@contextlib.contextmanager
def outage_told_plainly(api_url: str) -> Iterator[None]:
    """Run what uses the server at this address.

    Raises:
        ServerGone: it failed, as the server is gone or stays too busy.
    """
    import httpx

    from resonant.cli.server import is_healthy

    _say_nothing_of_connections()
    try:
        yield
    except httpx.TransportError:
        # One that is busy may take longer than a look has time.
        if any(is_healthy(api_url) for _ in range(_LOOKS)):
            raise
        forget_records()
        raise ServerGone(f"the Prefect server at {api_url} went away, and did not come back") from None
    except httpx.HTTPStatusError as error:
        # Prefect's client has tried for a minute by then.
        if error.response.status_code != _BUSY or not str(error.request.url).startswith(api_url):
            raise
        raise ServerGone(
            f"the Prefect server at {api_url} stays too busy to answer (503): run fewer things on it at once, or put it "
            "on PostgreSQL"
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
    """Let Prefect not say, for as long as this process lives, that it cannot reach its server."""
    logging.raiseExceptions = False  # its handler that sends lines writes of itself
    for name in _WITHIN_PREFECT:
        logging.getLogger(name).addFilter(_is_no_outage)
    for name in _SENDING:
        logging.getLogger(name).setLevel(logging.ERROR)


def _is_no_outage(record: logging.LogRecord) -> bool:
    import httpx

    error = record.exc_info[1] if record.exc_info else None
    text = record.getMessage()
    return not (isinstance(error, httpx.TransportError) or text.startswith(_OF_AN_OUTAGE))
