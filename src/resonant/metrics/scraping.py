"""The HTTP server for Prometheus scrapes. Each scrape reads the store, so values are current."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from resonant.configured import open_configured_store
from resonant.display import visible
from resonant.errors import ResonantError, StoreUnavailable
from resonant.metrics.prometheus import registry_of
from resonant.metrics.totals import measure
from resonant.settings import Settings
from resonant.store import Store
from resonant.store.engine.database import file_of

_HOST = "127.0.0.1"
_PATHS = ("/", "/metrics")


class _QuietHandler(WSGIRequestHandler):
    timeout = 30.0  # seconds without data after which a connection is closed

    def log_message(self, *_arguments: Any) -> None:
        """Log nothing, since scrapes come every few seconds."""

    def address_string(self) -> str:
        """Return the address without a slow name lookup."""
        return str(self.client_address[0])


def scrape_server(settings: Settings, port: int) -> WSGIServer:
    """Return a server bound to localhost. ``serve_forever`` runs it, and the end of its ``with`` block closes it.

    Raises:
        ResonantError: the port cannot be bound, or the database URL is not supported.
    """
    app = scrape_app(settings)
    try:
        # Each request has its own thread, so that a slow client does not block others.
        return make_server(_HOST, port, app, ThreadingWSGIServer, _QuietHandler)
    except OSError as error:
        raise ResonantError(f"--serve {port}: {error.strerror}") from None


def scrape_app(settings: Settings) -> WSGIApplication:
    """Return a WSGI application that serves Prometheus text, or OpenMetrics on request; 503 if the store is unavailable.

    Unlike a command, it does not create the store's file again if the file disappears. In an empty store, all counters are
    zero, which Prometheus interprets as a restart, and nobody would notice that the history was lost.

    Raises:
        StoreError: the URL does not name a supported database.
    """
    one_at_a_time = Lock()
    file = file_of(settings.store_url)
    has_been_there = file is not None and not _is_gone(file)

    async def read() -> CollectorRegistry:
        nonlocal has_been_there
        if file is not None and has_been_there and _is_gone(file):
            raise StoreUnavailable(
                f"sqlite:///{file}: the file was removed: restore it, or restart `resonant prometheus --serve` "
                "to begin with an empty store"
            )
        # The store is opened for each scrape: it may become unavailable, and it belongs to the event loop of one thread.
        async with open_configured_store(settings) as store:
            registry = await read_registry(store, settings)
        has_been_there = True
        return registry

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] not in _PATHS:
            return _one_line(start_response, "404 Not Found", "metrics are at /metrics")
        try:
            with one_at_a_time:
                registry = asyncio.run(read())
        except ResonantError as error:
            return _one_line(start_response, "503 Service Unavailable", str(error))
        return make_wsgi_app(registry)(environ, start_response)  # type: ignore[no-any-return,unused-ignore]

    return app


async def read_registry(store: Store, settings: Settings) -> CollectorRegistry:
    """Read the current metrics, in one snapshot.

    Raises:
        StoreUnavailable: the store became unavailable.
    """
    totals, found = await measure(store, hours=settings.metrics_window_hours)
    return registry_of(totals, found)


def _is_gone(file: Path) -> bool:
    try:
        file.stat()
    except OSError as error:  # after another one, opening the file gives the reason
        return isinstance(error, FileNotFoundError | NotADirectoryError)
    return False


def _one_line(start_response: StartResponse, status: str, line: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{visible(line)}\n".encode(errors="replace")]
