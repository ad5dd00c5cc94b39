"""``resonant serve``: accept events over HTTP."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import signal
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import output
from resonant.cli.command_store import command_store
from resonant.cli.options import Misuse
from resonant.display import counted
from resonant.errors import ResonantError
from resonant.intake.limits import TOKEN_BYTES, IntakeLimits

if TYPE_CHECKING:
    import socket

    from starlette.types import ASGIApp

    from resonant.intake.sources.source import Source
    from resonant.settings import Settings
    from resonant.store import Store

logger = logging.getLogger(__name__)

HOST, PORT = "127.0.0.1", 8080
_LABEL_WIDTH = 15
_CLOSE_SECONDS = 3
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", re.IGNORECASE)

Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS", help="Address to listen on; 0.0.0.0 is every IPv4 address of this machine."
    ),
]
Port = Annotated[
    int, typer.Option(metavar="PORT", min=0, max=65_535, help="Port to listen on; 0 is a free one.")
]


def serve(
    host: Host = HOST,
    port: Port = PORT,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Accept events from everyone who can connect, without a token.")
    ] = False,
    token_bytes: Annotated[
        int,
        typer.Option(
            metavar="BYTES",
            min=1,
            help="At most this many bytes per second from one token.",
        ),
    ] = TOKEN_BYTES,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST",
            help="Allow this host to send CloudEvents webhooks (their handshake, OPTIONS /events); repeatable.",
        ),
    ] = None,
    sources: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also accept the webhooks of other services that this file declares (POST /sources/NAME).",
        ),
    ] = None,
) -> None:
    """Accept events over HTTP (POST /events), until Ctrl-C. Each answer 202 means that the events are stored.

    Clients need a token of `resonant token create`. A drain, such as that of `resonant up`, sends the events.
    Several servers may use one store. /docs describes the interface.
    """
    from resonant.intake.serving.compatibility import check_uvicorn

    check_uvicorn()
    from resonant.intake.serving.quiet_log import log_without_repeats
    from resonant.intake.serving.server import listen

    for each in allow_origin or ():
        if not _HOST_NAME.fullmatch(each):
            raise Misuse(f"--allow-origin {each!r} is not the name of a host, such as events.example.com")
    declared = None if sources is None else given_sources(sources)
    with command_store(patient=True) as store, listen(host, port) as listener:
        log_without_repeats()
        store.run(
            lambda opened: _serve(
                opened,
                listener,
                store.settings,
                no_auth=no_auth,
                token_bytes=token_bytes,
                allowed_origins=allow_origin or (),
                sources=declared,
                file=sources,
            )
        )


async def _serve(
    store: Store,
    listener: socket.socket,
    settings: Settings,
    *,
    no_auth: bool,
    token_bytes: int,
    allowed_origins: Collection[str],
    sources: dict[str, Source] | None,
    file: Path | None,
) -> None:
    import asyncio

    from resonant.intake.access.foreign_pages import LocalAccess, without_foreign_pages
    from resonant.intake.access.tokens import OpenAccess, TokenAccess
    from resonant.intake.app import create_app, resource
    from resonant.intake.meters import Meters
    from resonant.intake.serving.health import Metrics, Readiness, healthz
    from resonant.intake.serving.server import serve
    from resonant.store.shared.tokens import valid_tokens

    host = listener.getsockname()[0]
    is_local = ipaddress.ip_address(host).is_loopback
    tokens = len(await store.read(valid_tokens))
    if sources is not None:
        require_checks(sources, is_local=is_local)
    if not (is_local or tokens or no_auth or sources):
        raise ResonantError(
            f"no token exists, so nobody could use the server on {host}: `resonant token create NAME` makes one; "
            "--no-auth accepts events from everyone who can connect"
        )
    if store.durability_problem:
        logger.warning("%s", store.durability_problem)
    limits, meters = IntakeLimits(event_bytes=settings.max_event_bytes, token_bytes=token_bytes), Meters()
    access = OpenAccess() if no_auth else TokenAccess(store, bytes_rate=limits.token_bytes)
    # With --no-auth, the whole application refuses foreign pages.
    metrics = Metrics(meters, LocalAccess() if is_local and not no_auth else access)
    routes = [
        resource("/healthz", GET=healthz),
        resource("/readyz", GET=Readiness(store).readyz),
        resource("/metrics", GET=metrics.metrics),
    ]
    app: ASGIApp = create_app(
        store,
        access=access,
        limits=limits,
        meters=meters,
        allowed_origins=allowed_origins,
        sources=sources,
        routes=routes,
    )
    if no_auth:
        app = without_foreign_pages(app, is_local=is_local)

    def write_what_runs() -> None:
        url = url_of(listener)
        for line in (
            f"events         {url}/events",
            f"documentation  {url}/docs",
            f"store          {store}",
            f"access         {_access(tokens, no_auth=no_auth)}",
            *lines_of_sources(url, sources or (), width=_LABEL_WIDTH),
            "Ctrl-C stops it.",
        ):
            output.write_paragraph(line, indent=_LABEL_WIDTH)
        output.flush()

    if sources is not None and file is not None:
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, partial(_read_again, sources, file, is_local=is_local)
        )
    await serve(app, listener, limits=limits, meters=meters, on_start=write_what_runs)
    exit_within(_CLOSE_SECONDS)


def url_of(listener: socket.socket) -> str:
    """Return the address of a server."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def lines_of_sources(url: str, names: Iterable[str], *, width: int) -> list[str]:
    """Return a line for each source, with the URL that its service posts to."""
    return [
        f"{'' if number else 'sources':<{width}}{url}/sources/{name}" for number, name in enumerate(names)
    ]


def exit_within(seconds: int) -> None:
    """End the process after this time: a store that does not answer cannot be closed. Nothing that was answered is lost."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.alarm(seconds)


def given_sources(file: Path) -> dict[str, Source]:
    """Return the declared sources.

    Raises:
        Misuse: the file cannot be used.
    """
    from resonant.intake.sources.declared import read_sources

    try:
        return read_sources(file)
    except ValueError as error:
        raise Misuse(str(error)) from None


def require_checks(sources: Mapping[str, Source], *, is_local: bool) -> None:
    """Warn of sources that accept every request.

    Raises:
        Misuse: there is one, and the server is not local.
    """
    for name, source in sources.items():
        if source.verify == "none":
            if not is_local:
                raise Misuse(f"source {name!r}: verify: none works on 127.0.0.1 only")
            logger.warning("source %r accepts requests of every program on this machine (verify: none)", name)


def _read_again(sources: dict[str, Source], file: Path, *, is_local: bool) -> None:
    """Read the file again after SIGHUP; a mistake keeps the old sources."""
    try:
        found = given_sources(file)
        require_checks(found, is_local=is_local)
    except Misuse as error:
        logger.warning("kept the old sources: %s", error)
        return
    sources.clear()
    sources.update(found)
    logger.warning("%s read again: %s", file, counted(len(found), "source"))


def _access(tokens: int, *, no_auth: bool) -> str:
    if no_auth:
        return "everyone who can connect, without a token (--no-auth)"
    if tokens:
        return f"with one of {counted(tokens, 'token')}"
    return "nobody yet: `resonant token create NAME` makes a token"
