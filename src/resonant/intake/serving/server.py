"""Runs the intake as an HTTP server, until a signal ends it."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from resonant.errors import ResonantError
from resonant.intake.limits import IntakeLimits
from resonant.intake.meters import Meters
from resonant.intake.serving.admission import RequestAdmission
from resonant.intake.serving.connections import Connection

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Connections that are accepted at once, and that may wait to be accepted.
_BACKLOG, _QUEUE = 128, 1024
# In addition to the connections: the store, the log, and connections that are accepted or closed at this moment.
_OTHER_FILES = 1_000


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens for connections.

    Args:
        host: a name or an address; ``0.0.0.0`` is every IPv4 address of this machine, ``::`` every IPv6 address.
        port: its port; 0 chooses a free one.

    Raises:
        ResonantError: the address cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        is_unknown = isinstance(error, socket.gaierror)
        reason = error.strerror if is_unknown else os.strerror(error.errno or 0)
        raise ResonantError(
            f"cannot listen on {host} port {port}: {reason}: choose another with --host and --port"
        ) from None
    listener.setblocking(False)
    # asyncio sets this only on sockets whose protocol it knows. Otherwise, an answer waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def serve(
    app: ASGIApp,
    listener: socket.socket,
    *,
    limits: IntakeLimits,
    meters: Meters,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Serve an application until SIGTERM or SIGINT, then answer the requests that were received; another signal kills.

    Args:
        app: answers the requests.
        listener: accepts the connections; it is closed.
        limits: bound the connections, their requests, and the time to stop.
        meters: count the requests.
        on_start: is called when the server accepts connections.
    """
    limits = replace(limits, connections=_possible_connections(limits.connections))
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        # The system closes the connection of a client that does not read its answer.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.read_seconds * 1000))
    # It logs a line for each request that is not HTTP.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        RequestAdmission(app, limits, meters),
        http=partial(Connection, limits, meters, {}, {}),  # type: ignore[arg-type]
        ws="none",
        loop="asyncio",
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=limits.stop_seconds,
    )
    await _Server(config, on_start).serve([listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_QUEUE)
        self._on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal. uvicorn would raise it again at the end."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    def _stop(self) -> None:
        self.should_exit = True
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)


def _possible_connections(wanted: int) -> int:
    """Let this process open as many files as it needs, and return how many connections it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = wanted + _OTHER_FILES
    if resource.RLIM_INFINITY != hard < files:
        files = hard
    if resource.RLIM_INFINITY != soft < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return min(wanted, max(files - _OTHER_FILES, files // 2))
