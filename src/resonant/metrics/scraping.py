"""Answers to Prometheus's scrapes over HTTP: each one reads the store, so none is older than itself."""

from __future__ import annotations

import asyncio
from socketserver import ThreadingMixIn
from threading import Lock
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from resonant.display import visible
from resonant.errors import ResonantError, StoreUnavailable
from resonant.metrics.prometheus import registry_of
from resonant.metrics.window import measure_sliding
from resonant.store.configured import open_configured_store
from resonant.store.database import file_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

    from resonant.settings import Settings
    from resonant.store import Store

_HOST = "127.0.0.1"
_PATHS = ("/", "/metrics")


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, so that one who reads slowly holds up nobody."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 30.0  # seconds of silence, after which a connection is closed

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing: scrapes come every few seconds."""

    def address_string(self) -> str:
        """Return the address as it is: to look up its name can take long."""
        return str(self.client_address[0])


def scrape_server(settings: Settings, port: int) -> WSGIServer:
    """Bind a server on this machine alone; ``serve_forever`` answers, leaving its ``with`` block closes it.

    Raises:
        ResonantError: the port cannot be had, or the settings name no store.
    """
    app = scrape_app(settings)
    try:
        server = _Server((_HOST, port), _QuietHandler)
    except OSError as error:
        raise ResonantError(f"--serve {port}: {error.strerror}") from None
    server.set_app(app)
    return server


def scrape_app(settings: Settings) -> WSGIApplication:
    """Return the application: Prometheus text, or OpenMetrics where that is asked for; 503 while the store is away.

    A store's file that was there and is gone is not made anew, as it would be for a command: in an empty store all counters
    are zero, which Prometheus takes for a restart, and nobody would learn that the history is lost.

    Raises:
        StoreError: the URL names no database that Resonant knows.
    """
    one_at_a_time = Lock()
    file = file_of(settings.store_url)
    has_been_there = file is not None and not _is_gone(file)

    def read() -> CollectorRegistry:
        nonlocal has_been_there
        if file is not None and has_been_there and _is_gone(file):
            raise StoreUnavailable(
                f"sqlite:///{file}: the file is gone: put it back, or restart `resonant prometheus --serve` "
                "to begin with an empty store"
            )
        # The store is opened for each scrape: it may go away and come back, and belongs to one thread's loop.
        registry = asyncio.run(_read(settings))
        has_been_there = True
        return registry

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] not in _PATHS:
            return _one_line(start_response, "404 Not Found", "metrics are at /metrics")
        try:
            with one_at_a_time:
                registry = read()
        except ResonantError as error:
            return _one_line(start_response, "503 Service Unavailable", str(error))
        return make_wsgi_app(registry)(environ, start_response)  # type: ignore[no-any-return,unused-ignore]

    return app


async def read_registry(store: Store, settings: Settings) -> CollectorRegistry:
    """Read the metrics of this moment, in one snapshot, going on from the last export.

    Raises:
        StoreUnavailable: the store went away.
    """
    hours, folder = settings.metrics_window_hours, settings.window_folder
    totals, found = await measure_sliding(store, hours=hours, folder=folder)
    return registry_of(totals, found, rollups=settings.rollups)


async def _read(settings: Settings) -> CollectorRegistry:
    async with open_configured_store(settings) as store:
        return await read_registry(store, settings)


def _is_gone(file: Path) -> bool:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # who opens it will say why it cannot be used
    return False


def _one_line(start_response: StartResponse, status: str, line: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{visible(line)}\n".encode(errors="replace")]
