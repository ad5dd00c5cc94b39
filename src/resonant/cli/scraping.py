"""Answers to Prometheus's scrapes over HTTP: each one reads the store, so none is older than itself."""

from __future__ import annotations

from socketserver import ThreadingMixIn
from threading import Lock
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from resonant.cli import output
from resonant.cli.metrics import read_registry
from resonant.cli.running import run_with_store
from resonant.errors import ResonantError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from resonant.settings import Settings

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
        ResonantError: the port cannot be had.
    """
    try:
        server = _Server((_HOST, port), _QuietHandler)
    except OSError as error:
        raise ResonantError(f"--serve {port}: {error.strerror}") from None
    server.set_app(scrape_app(settings))
    return server


def scrape_app(settings: Settings) -> WSGIApplication:
    """Return the application: Prometheus text, or OpenMetrics where that is asked for; 503 while the store is away."""
    from prometheus_client import make_wsgi_app

    one_at_a_time = Lock()

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] not in _PATHS:
            return _one_line(start_response, "404 Not Found", "metrics are at /metrics")
        try:
            # The store is opened for each scrape: it may go away and come back, and belongs to one thread's loop.
            with one_at_a_time:
                registry = run_with_store(lambda store: read_registry(store, settings), settings)
        except ResonantError as error:
            return _one_line(start_response, "503 Service Unavailable", str(error))
        return make_wsgi_app(registry)(environ, start_response)  # type: ignore[no-any-return,unused-ignore]

    return app


def _one_line(start_response: StartResponse, status: str, line: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{output.visible(line)}\n".encode(errors="replace")]
